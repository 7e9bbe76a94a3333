// SPDX-License-Identifier: Apache-2.0
// A PCI configuration space whose every answer is the input's next four bytes.
#define PCI_FUZZ 1
#include "../unit/drv_pci.c"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size) {
  survives(data, size);
  return 0;
}
