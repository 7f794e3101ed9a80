# Which system calls a container may make: each is tried in a child of its own, with arguments that no call takes.
# A line for each that is neither forbidden (EPERM) nor absent (ENOSYS).
import ctypes
import errno
import os
import platform
import signal

library = ctypes.CDLL(None, use_errno=True)
library.syscall.restype = ctypes.c_long
WRONG = (-1,) * 6
INTEL = platform.machine() == "x86_64"
# They end, stop or double the child, or take the host's time: exit, exit_group, fork, vfork, rt_sigreturn, pause, sync.
LEFT_OUT = {15, 34, 57, 58, 60, 162, 231} if INTEL else {81, 93, 94, 139}
PERSONALITY, SOCKET, CLONE, UNSHARE = (135, 41, 56, 272) if INTEL else (92, 198, 220, 97)
NAMESPACES = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)


def attempt(what, number, arguments):
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        words = [ctypes.c_long(word) for word in arguments]
        result = library.syscall(ctypes.c_long(number), *words)
        os._exit(ctypes.get_errno() if result == -1 else 0)
    _, status = os.waitpid(child, 0)
    ended = os.WTERMSIG(status) == signal.SIGSYS if os.WIFSIGNALED(status) else None
    if ended or (ended is None and os.WEXITSTATUS(status) in (errno.EPERM, errno.ENOSYS)):
        return
    print(what)


for number in range(471):
    if number not in LEFT_OUT:
        attempt(f"call {number}", number, WRONG)
for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF, 0x40000, 0x400000):
    attempt(f"personality {value:#x}", PERSONALITY, (value,))
for family in range(47):
    attempt(f"socket {family}", SOCKET, (family, 1, 0))
for flag in NAMESPACES:
    attempt(f"clone {flag:#x}", CLONE, (flag | signal.SIGCHLD, 0, 0, 0, 0))
    attempt(f"unshare {flag:#x}", UNSHARE, (flag,))
if INTEL:
    # The same processor's other table of calls.
    attempt("x32 getpid", 0x40000000 | 39, ())
