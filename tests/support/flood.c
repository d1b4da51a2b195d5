/* Open-loop load over HTTP/1.1: arrivals at fixed times, whatever the server does.
 *
 *   flood PORT CONNECTIONS RATE SECONDS REQUESTS
 *
 * REQUESTS is a file of requests, each after its length in ASCII and a line end; they are sent in turn. RATE is in
 * requests a second; 0 closes the loop: each connection sends its next request when it has its answer. An arrival that
 * finds no connection free opens another, up to CONNECTIONS; beyond that it is given up and counted as unsent, as by a
 * client whose pool is exhausted. Latency, of answers 200 and of requests never answered, is counted from the intended
 * time. One JSON object is printed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HEAD_MAX 8192
#define SECONDS_MAX 4096
#define LINGER_SECONDS 2.0

struct request { char *data; size_t length; };
struct connection {
    int fd, connecting, busy, status, closes;
    const struct request *request;
    size_t sent, head_length;
    long body_left; /* -1 while the head is read */
    double intended;
    char head[HEAD_MAX];
};

static struct request *requests;
static size_t request_count, next_request;
static struct connection *connections, **idle;
static int idle_count, connection_count, loop, port, opened;
static long statuses[1000], bare, unsent, sent, broken, per_second[SECONDS_MAX];
static double *latencies, begun, ends;
static size_t latency_count, latency_room;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void watch(struct connection *c, int events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(loop, EPOLL_CTL_MOD, c->fd, &event)) die("epoll_ctl");
}

static int open_one(struct connection *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->connecting = 0;
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to)) {
        if (errno != EINPROGRESS) {
            close(c->fd);
            c->fd = -1;
            return -1;
        }
        c->connecting = 1;
    }
    struct epoll_event event = {.events = EPOLLIN | (c->connecting ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(loop, EPOLL_CTL_ADD, c->fd, &event)) die("epoll_ctl");
    opened++;
    return 0;
}

static void rest(struct connection *c) {
    c->busy = 0;
    idle[idle_count++] = c;
}

static void end(struct connection *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
}

static void lose(struct connection *c) {
    end(c);
    if (c->busy) {
        broken++;
        rest(c);
    }
}

static void push(struct connection *c) {
    while (c->sent < c->request->length) {
        ssize_t n = send(c->fd, c->request->data + c->sent, c->request->length - c->sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) {
                watch(c, EPOLLIN | EPOLLOUT);
                return;
            }
            /* It may have been answered before it was all sent: what comes to be read tells. */
            c->closes = 1;
            c->sent = c->request->length;
            break;
        }
        c->sent += n;
    }
    watch(c, EPOLLIN);
}

static void ask(struct connection *c, double intended) {
    c->busy = 1;
    c->intended = intended;
    c->request = &requests[next_request];
    next_request = (next_request + 1) % request_count;
    c->sent = c->head_length = 0;
    c->status = c->closes = 0;
    c->body_left = -1;
    sent++;
    if (c->fd < 0 && open_one(c)) {
        lose(c);
        return;
    }
    if (!c->connecting) push(c);
}

static void took(double latency) {
    if (latency_count == latency_room) {
        latency_room = latency_room ? latency_room * 2 : 65536;
        latencies = realloc(latencies, latency_room * sizeof *latencies);
        if (!latencies) die("realloc");
    }
    latencies[latency_count++] = latency;
}

static void answered(struct connection *c) {
    double at = now();
    statuses[c->status]++;
    if (c->status == 200) {
        took(at - c->intended);
        int second = at - begun;
        if (second < SECONDS_MAX) per_second[second]++;
    }
    if (c->closes || c->sent < c->request->length) end(c);
    rest(c);
}

static int take_head(struct connection *c) {
    char *stop = memmem(c->head, c->head_length, "\r\n\r\n", 4);
    if (!stop) return c->head_length == HEAD_MAX ? -1 : 0;
    *stop = 0;
    if (sscanf(c->head, "HTTP/1.1 %d", &c->status) != 1 || c->status < 100 || c->status > 999) return -1;
    if ((c->status == 429 || c->status == 503) && !strcasestr(c->head, "retry-after: ")) bare++;
    char *length = strcasestr(c->head, "content-length: ");
    long body = length ? atol(length + 16) : 0;
    if (strcasestr(c->head, "connection: close")) c->closes = 1;
    c->body_left = body - (long)(c->head_length - (stop + 4 - c->head));
    return 1;
}

static void pull(struct connection *c) {
    static char waste[1 << 18];
    for (;;) {
        int in_head = c->busy && c->body_left < 0;
        ssize_t n = in_head ? recv(c->fd, c->head + c->head_length, HEAD_MAX - c->head_length, 0)
                            : recv(c->fd, waste, sizeof waste, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            lose(c);
            return;
        }
        if (!c->busy) continue; /* a refusal nobody asked for: 408 of an idle connection */
        if (in_head) {
            c->head_length += n;
            int found = take_head(c);
            if (found < 0) {
                lose(c);
                return;
            }
            if (!found) continue;
        } else c->body_left -= n;
        if (c->body_left <= 0) {
            answered(c);
            return;
        }
    }
}

static void ready(struct connection *c, int events) {
    if (c->fd < 0) return;
    if (c->connecting && events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) {
            lose(c);
            return;
        }
        c->connecting = 0;
        push(c);
    } else if (c->busy && events & EPOLLOUT) push(c);
    if (c->fd >= 0 && events & (EPOLLIN | EPOLLERR | EPOLLHUP)) pull(c);
}

static void load(const char *path) {
    FILE *file = fopen(path, "rb");
    size_t length;
    if (!file) die(path);
    while (fscanf(file, "%zu", &length) == 1) {
        fgetc(file);
        requests = realloc(requests, (request_count + 1) * sizeof *requests);
        char *data = malloc(length);
        if (!requests || !data || fread(data, 1, length, file) != length) die("requests");
        requests[request_count++] = (struct request){data, length};
    }
    fclose(file);
    if (!request_count) die("no requests");
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double quantile(double share) {
    return latency_count ? latencies[(size_t)(share * (latency_count - 1))] : 0;
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    port = atoi(argv[1]);
    connection_count = atoi(argv[2]);
    double rate = atof(argv[3]), seconds = atof(argv[4]);
    load(argv[5]);
    loop = epoll_create1(0);
    connections = calloc(connection_count, sizeof *connections);
    idle = calloc(connection_count, sizeof *idle);
    if (loop < 0 || !connections || !idle) die("begin");
    for (int i = connection_count - 1; i >= 0; i--) {
        connections[i].fd = -1;
        rest(&connections[i]);
    }
    struct epoll_event events[1024];
    begun = now();
    ends = begun + seconds;
    double issued = 0;
    for (double at = begun; at < ends; at = now()) {
        if (rate <= 0) {
            while (idle_count) ask(idle[--idle_count], at);
        } else {
            for (double due = (at - begun) * rate; issued < due; issued++) {
                if (idle_count) ask(idle[--idle_count], begun + issued / rate);
                else unsent++;
            }
        }
        int count = epoll_wait(loop, events, 1024, 1);
        for (int i = 0; i < count; i++) ready(events[i].data.ptr, events[i].events);
    }
    double length = now() - begun;
    int waiting = connection_count - idle_count;
    /* Who was not answered must not be forgotten: they are waited for, and count with the time that they waited. */
    if (rate > 0) {
        for (double until = now() + LINGER_SECONDS; now() < until && idle_count < connection_count;) {
            int count = epoll_wait(loop, events, 1024, 1);
            for (int i = 0; i < count; i++) ready(events[i].data.ptr, events[i].events);
        }
        for (int i = 0; i < connection_count; i++)
            if (connections[i].busy) took(now() - connections[i].intended);
    }
    qsort(latencies, latency_count, sizeof *latencies, compare);
    printf("{\"seconds\":%.3f,\"sent\":%ld,\"unsent\":%ld,\"broken\":%ld,\"opened\":%d,\"waiting\":%d,\"bare\":%ld,", length,
           sent, unsent, broken, opened, waiting, bare);
    printf("\"p50\":%.6f,\"p99\":%.6f,\"most\":%.6f,\"statuses\":{", quantile(0.5), quantile(0.99), quantile(1));
    const char *comma = "";
    for (int i = 0; i < 1000; i++)
        if (statuses[i]) {
            printf("%s\"%d\":%ld", comma, i, statuses[i]);
            comma = ",";
        }
    printf("},\"per_second\":[");
    for (int i = 0; i < (int)length && i < SECONDS_MAX; i++) printf("%s%ld", i ? "," : "", per_second[i]);
    printf("]}\n");
    return 0;
}
