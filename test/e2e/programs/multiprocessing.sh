# needs: python3
# SPDX-License-Identifier: Apache-2.0
# python3's multiprocessing: a pool, shared memory, POSIX semaphores, a process that is told to end.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/main.py" << 'P'
import multiprocessing as mp
import time
from multiprocessing import shared_memory


def square(x):
    return x * x


def count(value, times):
    for _ in range(times):
        with value.get_lock():
            value.value += 1


def store(name, i):
    memory = shared_memory.SharedMemory(name)
    memory.buf[i] = i
    memory.close()


def together(target, argument_lists):
    processes = [mp.Process(target=target, args=arguments) for arguments in argument_lists]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


if __name__ == "__main__":
    with mp.Pool(2) as pool:
        print(sum(pool.map(square, range(100))))
    value = mp.Value("i", 0)
    print(together(count, [(value, 300)] * 3), value.value)
    memory = shared_memory.SharedMemory(create=True, size=100000)
    print(together(store, [(memory.name, i) for i in range(3)]), bytes(memory.buf[:3]))
    memory.close()
    memory.unlink()
    sleeper = mp.Process(target=time.sleep, args=(1000,))
    sleeper.start()
    sleeper.terminate()
    sleeper.join()
    print(sleeper.exitcode)
P
/usr/bin/python3 "$work/main.py"
