// SPDX-License-Identifier: Apache-2.0
//
// A kernel volume for tests of the launcher: real-mode code that writes a text to COM1 and then resets the machine, which
// ends QEMU (-no-reboot), or halts.

const UNIT_BYTES = 64 * 1024;

export function fakeKernel(text: string, end: 'reset' | 'halt'): Buffer {
  const image = Buffer.alloc(UNIT_BYTES, 0xf4);
  const message = 0x100;
  // The first instructions run at F000:0000 with CS's base still at the top of 4 GiB.
  Buffer.from([
    // mov si, message; mov dx, 0x3f8
    ...[0xbe, message & 0xff, message >> 8, 0xba, 0xf8, 0x03],
    // next: cs lodsb; test al, al; jz +3; out dx, al; jmp next
    ...[0x2e, 0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf7],
    // mov dx, 0xcf9; mov al, 6; out dx, al
    ...(end === 'reset' ? [0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee] : []),
    // cli; hlt
    ...[0xfa, 0xf4],
  ]).copy(image, 0);
  image.write(`${text}\0`, message, 'latin1');
  image.writeUInt8(0xe9, 0xfff0);
  image.writeUInt16LE(0x10000 - 0xfff3, 0xfff1);
  return image;
}
