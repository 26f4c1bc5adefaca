"""What `rclone mount` asks of fusermount3(1), for root on a machine that does not have it."""

import array
import ctypes
import os
import socket
import sys


def main() -> int:
    library = ctypes.CDLL(None, use_errno=True)
    *options, folder = sys.argv[1:]
    if "-u" in options:
        detach = 2
        return int(library.umount2(os.fsencode(folder), detach))
    device = os.open("/dev/fuse", os.O_RDWR)
    data = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    if library.mount(b"rclone", os.fsencode(folder), b"fuse.rclone", 0, data):
        print(os.strerror(ctypes.get_errno()), file=sys.stderr)
        return 1
    with socket.socket(fileno=int(os.environ["_FUSE_COMMFD"])) as asking:
        passed = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [device]))
        asking.sendmsg([b"\0"], [passed])
    return 0


if __name__ == "__main__":
    sys.exit(main())
