# Writes down every token that reaches this sandbox, however it is wrapped: all frames are looked at, and connections are accepted.
import re, socket, sys, threading

port, seen = int(sys.argv[1]), sys.argv[2]


def accept():
    listener = socket.create_server(("0.0.0.0", port))
    while True:
        conn, _ = listener.accept()
        conn.settimeout(5)
        try:
            conn.recv(4096)
        except OSError:
            pass
        conn.close()


threading.Thread(target=accept, daemon=True).start()
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3)) as s, open(seen, "w", buffering=1) as out:
    s.bind(("eth0", 0))
    print("ready", file=out)
    while True:
        frame, (_, _, kind, _, _) = s.recvfrom(65536)
        if kind != socket.PACKET_OUTGOING:
            for token in re.findall(rb"probe-[a-z0-9]+-", frame):
                print(token.decode(), file=out)
