# What a hostile program can do with the network, as root. Each probe sends its token by every means it has, and says nothing: who
# listens at the other end knows whether it arrived. The table of probes, and who is who, come as JSON from standard input.
import fcntl, json, socket, struct, sys, threading

given = json.load(sys.stdin)
NET, HOST, OTHER, OTHER_HOST, PORT = (given["who"][name] for name in ("net", "host", "other", "other_host", "port"))
TIMEOUT = given["timeout"]


def device(request, data):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        return fcntl.ioctl(s, request, b"eth0".ljust(16, b"\0") + data)


def own_address():
    return socket.inet_ntoa(device(0x8915, bytes(24))[20:24])  # SIOCGIFADDR


def own_mac():
    return device(0x8927, bytes(24))[18:24]  # SIOCGIFHWADDR


def gateway():
    n = struct.unpack("!I", socket.inet_aton(own_address()))[0]
    return socket.inet_ntoa(struct.pack("!I", n - 1))


def gateway_mac():
    with open("/proc/net/arp") as table:
        return next(bytes.fromhex(row.split()[3].replace(":", "")) for row in table if row.startswith(gateway() + " "))


def udp(to, text, port=None):
    with socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.sendto(text, (to, port or PORT))


def tcp(to, text, port=None):
    with socket.create_connection((to, port or PORT), timeout=TIMEOUT) as s:
        s.sendall(text)
        s.recv(1)  # the other end closes once it has read it


def checksum(b):
    b += b"\0" * (len(b) % 2)
    n = sum(struct.unpack("!%dH" % (len(b) // 2), b))
    n = (n & 0xFFFF) + (n >> 16)
    return ~((n & 0xFFFF) + (n >> 16)) & 0xFFFF


def ipv4(src, dst, payload, protocol=17, identity=1, fragment=0, options=b""):
    words = 5 + len(options) // 4
    head = struct.pack("!BBHHHBBH4s4s", 0x40 | words, 0, words * 4 + len(payload), identity, fragment, 64, protocol, 0, socket.inet_aton(src), socket.inet_aton(dst)) + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def datagram(text):
    return struct.pack("!HHHH", PORT, PORT, 8 + len(text), 0) + text  # no checksum


def frame(packet, kind=0x0800, to=None, source=None):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
        s.bind(("eth0", 0))
        s.send((to or gateway_mac()) + (source or own_mac()) + struct.pack("!H", kind) + packet)


def spoofed(src, dst, text):
    frame(ipv4(src, dst, datagram(text)))


def fragments(src, dst, text):
    whole = datagram(text.ljust(64))
    frame(ipv4(src, dst, whole[:32], identity=7, fragment=0x2000))
    frame(ipv4(src, dst, whole[32:], identity=7, fragment=4))


def ipv6(dst, text, source="fe80::1"):
    body = datagram(text)
    frame(struct.pack("!IHBB", 0x60000000, len(body), 17, 64) + socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, dst) + body, kind=0x86DD)


def run(probe):
    try:
        exec(probe["does"], globals(), {"text": probe["token"].encode()})
    except OSError:
        pass  # it was refused, or nobody answered


udp(gateway(), b"where are you")  # so that the neighbour is known
threads = [threading.Thread(target=run, args=(p,)) for p in given["probes"]]
for t in threads:
    t.start()
for t in threads:
    t.join()
