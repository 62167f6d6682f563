#!/usr/bin/env python3
"""What a send buffer carries over a path of 100 ms, and what it holds when the path falls silent.

The gateway's socket options on a socket of its own, in two network namespaces joined by this program, which hands
each packet on 50 ms later. Needs root. Prints a table for RESULTS.md:  benches/long_path.py [KiB of SO_SNDBUF ...]
"""
import ctypes
import fcntl
import heapq
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time

CLONE_NEWNET, TUNSETIFF, IFF_TUN_NO_PI = 0x40000000, 0x400454CA, 0x1001
SO_MEMINFO, TCP_NOTSENT_LOWAT = 55, 25
ONE_WAY_S, WARM_S, MEASURED_S, SILENT_S = 0.05, 2, 4, 2
UNSENT_BYTES = 16 * 1024  # src/limits.rs
libc = ctypes.CDLL(None, use_errno=True)


def namespace(name, own, peer):
    """A network namespace of its own with one end of the path; returns both."""
    if libc.unshare(CLONE_NEWNET):
        sys.exit(f"a network namespace can't be made (root?): {os.strerror(ctypes.get_errno())}")
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN_NO_PI))
    for command in (f"addr add {own} peer {peer} dev {name}", f"link set {name} up txqueuelen 10000"):
        subprocess.check_call(["ip", *command.split()])
    return os.open("/proc/self/ns/net", os.O_RDONLY), end


class Path:
    def __init__(self, one, other):
        self.ends, self.is_silent = (one, other), False
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        waiting, number = [], 0
        one, other = self.ends
        while True:
            ready, _, _ = select.select(self.ends, [], [], 0.001 if waiting else 0.2)
            now = time.monotonic()
            for end in ready:
                try:
                    packet = os.read(end, 70_000)
                except BlockingIOError:
                    continue
                if not self.is_silent:
                    number += 1
                    heapq.heappush(waiting, (now + ONE_WAY_S, number, other if end == one else one, packet))
            while waiting and waiting[0][0] <= now:
                os.write(*heapq.heappop(waiting)[2:])


def measure(path, namespaces, buffer_bytes, write_bytes):
    """Bytes a second of such writes, and the most the kernel holds, then and on a silent path."""
    path.is_silent = False
    libc.setns(namespaces[0], CLONE_NEWNET)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
    listener.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.bind(("10.9.0.1", 0))
    listener.listen(1)
    libc.setns(namespaces[1], CLONE_NEWNET)
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    server.setblocking(False)
    client.settimeout(0.5)
    read, ended = [0], threading.Event()

    def reads():
        while not ended.is_set():
            try:
                read[0] += len(client.recv(1 << 20))
            except TimeoutError:
                pass

    reader = threading.Thread(target=reads)
    reader.start()
    poll, most = select.poll(), 0
    poll.register(server, select.POLLOUT)
    began, first, rate = time.monotonic(), None, 0
    while (at := time.monotonic() - began) < WARM_S + MEASURED_S + SILENT_S:
        if first is None and at > WARM_S:
            first = (at, read[0])
        if not path.is_silent and at > WARM_S + MEASURED_S:
            rate = (read[0] - first[1]) / (at - first[0])
            path.is_silent = True
        if poll.poll(100):
            try:
                server.send(b"x" * write_bytes)
            except BlockingIOError:
                pass
        figures = struct.unpack("9I", server.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))
        forward_alloc, queued = figures[4], figures[5]
        most = max(most, forward_alloc + queued)
    ended.set()
    reader.join()
    return rate, most


def main():
    buffers = [int(kib) * 1024 for kib in sys.argv[1:]] or [48 * 1024, 64 * 1024]
    (one, one_end), (other, other_end) = (
        namespace("one", "10.9.0.1", "10.9.0.2"),
        namespace("other", "10.9.0.2", "10.9.0.1"),
    )
    path = Path(one_end, other_end)
    print("| `SO_SNDBUF` | bytes of a write | KB/s | most the kernel held, KB |\n|---|---|---|---|")
    for buffer_bytes in buffers:
        for write_bytes in (500, 4_000, 16_000, 32_768):
            rate, most = measure(path, (one, other), buffer_bytes, write_bytes)
            print(f"| {buffer_bytes // 1024} KiB | {write_bytes} | {rate / 1000:.0f} | {most / 1000:.0f} |", flush=True)


main()
