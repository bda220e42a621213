/* The floor of the benches: what bare sockets cost, with one thread and one epoll loop.

   floor PORT        a chat: the first message of a connection is its name; whatever else comes goes to
                     all others as "[NAME] text", all that came in one read in one write per connection
   floor PORT echo   an echo: "Echo: text"

   It answers any handshake, knows short text frames only, and has no bound on anything: a yardstick
   for 127.0.0.1 and nothing else. Frames: RFC 6455, section 5.2. Build: cc -O2 -o floor floor.c */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { OPENING, NAMELESS, MEMBER, MOST = 20000, INPUT = 1 << 18, OUTPUT = 1 << 20 };

struct peer {
    int fd, state, place, held;
    char name[40];
    uint8_t *rest; /* the beginning of a frame that has not arrived whole */
};

static struct peer *peers[MOST];
static int count, poller, echo;
static uint8_t input[INPUT * 2], output[OUTPUT];

/* SHA-1 (RFC 3174) of one message of 60 bytes: the handshake's key and its fixed text. */
static uint32_t turned(uint32_t word, int by) { return word << by | word >> (32 - by); }

static void sha1(const char *text, uint8_t digest[20]) {
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    uint8_t padded[128] = {0};
    memcpy(padded, text, 60);
    padded[60] = 0x80;
    padded[126] = 60 * 8 >> 8;
    padded[127] = (uint8_t)(60 * 8);
    for (int block = 0; block < 128; block += 64) {
        uint32_t w[80], v[5];
        for (int i = 0; i < 16; i++) {
            const uint8_t *at = padded + block + 4 * i;
            w[i] = (uint32_t)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3];
        }
        for (int i = 16; i < 80; i++) w[i] = turned(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        memcpy(v, h, sizeof v);
        for (int i = 0; i < 80; i++) {
            uint32_t f, k;
            if (i < 20) f = (v[1] & v[2]) | (~v[1] & v[3]), k = 0x5a827999;
            else if (i < 40) f = v[1] ^ v[2] ^ v[3], k = 0x6ed9eba1;
            else if (i < 60) f = (v[1] & v[2]) | (v[1] & v[3]) | (v[2] & v[3]), k = 0x8f1bbcdc;
            else f = v[1] ^ v[2] ^ v[3], k = 0xca62c1d6;
            uint32_t sum = turned(v[0], 5) + f + v[4] + k + w[i];
            v[4] = v[3], v[3] = v[2], v[2] = turned(v[1], 30), v[1] = v[0], v[0] = sum;
        }
        for (int i = 0; i < 5; i++) h[i] += v[i];
    }
    for (int i = 0; i < 20; i++) digest[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

static void base64(const uint8_t digest[20], char text[29]) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < 7; i++) {
        uint32_t bits = digest[3 * i] << 16 | digest[3 * i + 1] << 8 | (i < 6 ? digest[3 * i + 2] : 0);
        for (int j = 0; j < 4; j++) text[4 * i + j] = letters[bits >> (18 - 6 * j) & 63];
    }
    text[27] = '=';
    text[28] = 0;
}

static void put(int fd, const uint8_t *data, int size) {
    while (size > 0) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            struct pollfd writable = {fd, POLLOUT, 0};
            poll(&writable, 1, 1000);
        } else if (sent < 0) {
            return;
        } else {
            data += sent, size -= (int)sent;
        }
    }
}

static int frame(uint8_t *to, const char *before, const uint8_t *text, int size) {
    int head = 0, start = (int)strlen(before), whole = start + size;
    to[head++] = 0x81;
    if (whole < 126) {
        to[head++] = (uint8_t)whole;
    } else {
        to[head++] = 126, to[head++] = (uint8_t)(whole >> 8), to[head++] = (uint8_t)whole;
    }
    memcpy(to + head, before, start);
    memcpy(to + head + start, text, size);
    return head + whole;
}

static void forget(struct peer *peer) {
    close(peer->fd);
    peers[peer->place] = peers[--count];
    peers[peer->place]->place = peer->place;
    free(peer->rest);
    free(peer);
}

static void welcome(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK), one = 1;
    if (fd < 0) return;
    if (count == MOST) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct peer *peer = calloc(1, sizeof *peer);
    peer->fd = fd, peer->place = count, peers[count++] = peer;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
}

/* Answer the handshake at the beginning of `data`; return its length, 0 if it is not whole. */
static int handshake(struct peer *peer, uint8_t *data, int size) {
    uint8_t *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end) return 0;
    *end = 0;
    char *key = strcasestr((char *)data, "sec-websocket-key: ");
    char text[64] = {0}, accept[29], answer[256];
    uint8_t digest[20];
    if (key) memcpy(text, key + 19, 24);
    memcpy(text + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    sha1(text, digest);
    base64(digest, accept);
    int written = snprintf(answer, sizeof answer,
                           "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                           "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept);
    put(peer->fd, (uint8_t *)answer, written);
    peer->state = echo ? MEMBER : NAMELESS;
    return (int)(end + 4 - data);
}

static void hear(struct peer *peer) {
    memcpy(input, peer->rest, peer->held);
    ssize_t got = recv(peer->fd, input + peer->held, INPUT, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) forget(peer);
        return;
    }
    uint8_t *data = input;
    int size = peer->held + (int)got, ready = 0;
    if (peer->state == OPENING) {
        int taken = handshake(peer, data, size);
        data += taken, size -= taken;
    }
    while (peer->state != OPENING && size >= 6) {
        int length = data[1] & 127, head = 6;
        if (length == 126) length = data[2] << 8 | data[3], head = 8;
        if (size < head + length || ready + length + 64 > OUTPUT) break;
        uint8_t *key = data + head - 4, *text = data + head;
        for (int i = 0; i < length; i++) text[i] ^= key[i & 3];
        if ((data[0] & 15) == 8) {
            forget(peer);
            return;
        }
        if (echo) {
            ready += frame(output + ready, "Echo: ", text, length);
        } else if (peer->state == NAMELESS) {
            char said[64];
            snprintf(peer->name, sizeof peer->name, "[%.*s] ", length < 32 ? length : 32, text);
            snprintf(said, sizeof said, "Welcome, %.*s!", length < 32 ? length : 32, text);
            put(peer->fd, output, frame(output, said, text, 0));
            peer->state = MEMBER;
        } else {
            ready += frame(output + ready, peer->name, text, length);
        }
        data += head + length, size -= head + length;
    }
    if (ready && echo) put(peer->fd, output, ready);
    for (int i = 0; ready && !echo && i < count; i++)
        if (peers[i] != peer && peers[i]->state == MEMBER) put(peers[i]->fd, output, ready);
    peer->held = size;
    peer->rest = realloc(peer->rest, size ? size : 1);
    memcpy(peer->rest, data, size);
}

int main(int words, char **word) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (words < 2) return 2;
    echo = words > 2;
    address.sin_port = htons((uint16_t)atoi(word[1]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) {
        perror("floor");
        return 1;
    }
    poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[512];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(poller, events, 512, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.ptr) hear(events[i].data.ptr);
            else welcome(listener);
        }
    }
}
