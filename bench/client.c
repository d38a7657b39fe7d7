/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * A client of the benchmark, one line of JSON on stdout:
 * `client WHAT SECONDS WARM-UP FLOW SEEN NAME[,NAME] TO:PORT [TO:PORT …]`. Destinations are taken
 * in turn. Every answer must come from one of the NAMEs and tell the address at which this client
 * is to be SEEN. `sent` counts what was tried, `wrong` answers that are not right, `lost` those
 * that never came.
 *
 *   connect    TCP, one after another: p50 and p99 of connect(), in microseconds
 *   first      UDP, each from a new socket: p50 and p99 of the time to the answer
 *   requests   TCP, 64 at a time, connect, ask, read, close: how many were done in seconds
 *   udp        datagrams from 16 connected sockets, as fast as they go: seconds, and of CPU
 * (tool.h) bulk       one TCP stream: bytes acknowledged in seconds, retransmits greet      two
 * datagrams and their answers from each of 64 ports, from 10000 on
 */
#include "tool.h"
#include <fcntl.h>
#include <linux/tcp.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define MOST_TARGETS 16
#define MOST_SAMPLES (1 << 20)
#define CONCURRENT 64
#define UDP_SOCKETS 16
#define UDP_BATCH 64
#define GREET_FLOWS 64
#define GREET_PORT 10000
#define TIMEOUT_S 1
#define FLOW_PORT 20000
#define FLOWS_PER_ADDRESS 40000
#define FLOW_ADDRESSES 64

static const char *names;
/* Addresses that servers may see this client at, with commas; "-": its own, with its own port. */
static const char *seen_as;
static struct sockaddr_in targets[MOST_TARGETS];
static int target_count, turn;
static double seconds, warm_up;
/* Number of the next UDP flow: none is used a second time, so that each is new to whoever
 * translates it. */
static unsigned long next_flow;
static unsigned long sent, lost, wrong;
static float samples[MOST_SAMPLES];
static int sample_count;

static const struct sockaddr_in *next_target(void)
{
	return &targets[turn++ % target_count];
}

static int open_socket(int type)
{
	struct timeval timeout = {.tv_sec = TIMEOUT_S};
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die_errno("Cannot open a socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	return fd;
}

/* 192.168.1.0 and up: the client has these addresses as well. */
static struct sockaddr_in flow_address(unsigned long flow)
{
	return (struct sockaddr_in){
		.sin_family = AF_INET,
		.sin_port = htons(FLOW_PORT + flow % FLOWS_PER_ADDRESS),
		.sin_addr = {htonl(0xc0a80100 + flow / FLOWS_PER_ADDRESS % FLOW_ADDRESSES)},
	};
}

/* A socket of a flow that was never seen before. */
static int open_flow(int type)
{
	struct sockaddr_in own = flow_address(next_flow++);
	int fd = open_socket(type);

	if (bind(fd, (void *)&own, sizeof(own)))
		die_errno("Cannot use a port of the client");
	return fd;
}

static int connect_to(int fd, const struct sockaddr_in *to)
{
	return connect(fd, (const void *)to, sizeof(*to));
}

static bool is_known(const char *name)
{
	size_t length = strlen(name);

	for (const char *at = names; at; at = strchr(at, ',')) {
		at += *at == ',';
		if (!strncmp(at, name, length) && (at[length] == ',' || !at[length]))
			return true;
	}
	return false;
}

/* `ADDRESS:PORT` */
static bool is_seen_as(const char *seen)
{
	size_t length = strcspn(seen, ":");

	for (const char *at = seen_as; at; at = strchr(at, ',')) {
		at += *at == ',';
		if (!strncmp(at, seen, length) && (at[length] == ',' || !at[length]))
			return true;
	}
	return false;
}

/* `NAME ADDRESS:PORT`: from a server that is meant, which saw us as we are. */
static bool is_right(int fd, char *text, ssize_t length)
{
	struct sockaddr_in own;
	socklen_t size = sizeof(own);
	char address[INET_ADDRSTRLEN], name[64], seen[32], expected[32];

	text[length] = 0;
	if (sscanf(text, "%63s %31s", name, seen) != 2 || getsockname(fd, (void *)&own, &size))
		return false;
	inet_ntop(AF_INET, &own.sin_addr, address, sizeof(address));
	snprintf(expected, sizeof(expected), "%s:%u", address, ntohs(own.sin_port));
	if (!is_known(name))
		return false;
	return !strcmp(seen_as, "-") ? !strcmp(seen, expected) : is_seen_as(seen);
}

static void keep_sample(double value_s)
{
	if (sample_count < MOST_SAMPLES)
		samples[sample_count++] = value_s * 1e6;
}

static int by_size(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

static double percentile(double share)
{
	int at = share * sample_count;

	return sample_count ? samples[at < sample_count ? at : sample_count - 1] : -1;
}

static void print_latency(void)
{
	qsort(samples, sample_count, sizeof(*samples), by_size);
	printf("{\"sent\":%lu,\"lost\":%lu,\"wrong\":%lu,\"p50\":%.3f,\"p99\":%.3f}\n", sent, lost,
	       wrong, percentile(0.5), percentile(0.99));
}

/* Repeats `once`, which answers the seconds that it measured, or -1; those of the warm-up are
 * forgotten. However slow it is, there is one that counts, or one that failed. */
static void repeat(double (*once)(void))
{
	double start = now_s() + warm_up;

	while (now_s() < start + seconds || !(sample_count || lost || wrong)) {
		bool counts = now_s() >= start;
		double took = once();

		sent++;
		if (took >= 0 && counts)
			keep_sample(took);
	}
	print_latency();
}

/* -1: nothing came, or not the right thing. */
static double read_answer(int fd, double value_s)
{
	char text[128];
	ssize_t length = recv(fd, text, sizeof(text) - 1, 0);

	if (length <= 0) {
		lost++;
		return -1;
	}
	if (is_right(fd, text, length))
		return value_s;
	wrong++;
	return -1;
}

static double connect_once(void)
{
	int fd = open_flow(SOCK_STREAM);
	char rest[16];
	double begin = now_s(), took = -1;

	if (connect_to(fd, next_target()) ||
	    (took = now_s() - begin, send(fd, "who\n", 4, MSG_NOSIGNAL) != 4)) {
		lost++;
		took = -1;
	} else {
		took = read_answer(fd, took);
		while (recv(fd, rest, sizeof(rest), 0) > 0)
			;
	}
	close(fd);
	return took;
}

static double first_once(void)
{
	double begin = now_s(), took = -1;
	int fd = open_flow(SOCK_DGRAM);

	/* Connected: the kernel then takes an answer from this address only. */
	if (connect_to(fd, next_target()) || send(fd, "who\n", 4, 0) != 4)
		lost++;
	else
		took = read_answer(fd, 0);
	if (took == 0)
		took = now_s() - begin;
	close(fd);
	return took;
}

/* ---- many at a time
 * ---------------------------------------------------------------------------------------------- */

struct request {
	int fd;
	bool asked;
	double begun;
	int length;
	char text[128];
};

static struct request requests[CONCURRENT];

static void start_request(int epoll, struct request *r)
{
	struct epoll_event event = {.events = EPOLLOUT, .data.ptr = r};

	*r = (struct request){.fd = open_flow(SOCK_STREAM | SOCK_NONBLOCK), .begun = now_s()};
	connect_to(r->fd, next_target());
	sent++;
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, r->fd, &event))
		die_errno("Cannot wait for a connection");
}

/* True: it has ended. */
static bool go_on(int epoll, struct request *r)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = r};
	ssize_t length;

	if (!r->asked) {
		r->asked = true;
		if (send(r->fd, "who\n", 4, MSG_NOSIGNAL) != 4) {
			lost++;
			return true;
		}
		epoll_ctl(epoll, EPOLL_CTL_MOD, r->fd, &event);
		return false;
	}
	length = recv(r->fd, r->text + r->length, sizeof(r->text) - 1 - r->length, 0);
	if (length > 0) {
		r->length += length;
		return false;
	}
	if (length < 0 && errno == EAGAIN)
		return false;
	if (r->length == 0)
		lost++;
	else if (!is_right(r->fd, r->text, r->length))
		wrong++;
	return true;
}

static void give_up_late(int epoll)
{
	double now = now_s();

	for (struct request *r = requests; r < requests + CONCURRENT; r++) {
		if (now - r->begun < TIMEOUT_S)
			continue;
		lost++;
		close(r->fd);
		start_request(epoll, r);
	}
}

static void run_requests(void)
{
	struct epoll_event events[CONCURRENT];
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	double begin = now_s(), now = begin, counted_from = 0;
	unsigned long begun = 0, failed = 0;

	for (int i = 0; i < CONCURRENT; i++)
		start_request(epoll, &requests[i]);
	/* However slow it is, there is one that counts, or one that failed. */
	while (!counted_from || now < counted_from + seconds || sent == begun) {
		int count = epoll_wait(epoll, events, CONCURRENT, 100);

		for (int i = 0; i < count; i++) {
			struct request *r = events[i].data.ptr;

			if (go_on(epoll, r)) {
				close(r->fd);
				start_request(epoll, r);
			}
		}
		now = now_s();
		if (count == 0)
			give_up_late(epoll);
		if (!counted_from && now > begin + warm_up) {
			counted_from = now;
			begun = sent;
			failed = lost + wrong;
		}
	}
	/* What is under way is not lost: as many were under way when counting began. */
	printf("{\"sent\":%lu,\"lost\":%lu,\"wrong\":%lu,\"done\":%lu,\"seconds\":%.9f}\n", sent,
	       lost, wrong, sent - begun - (lost + wrong - failed), now - counted_from);
}

/* ---- streams of packets
 * ------------------------------------------------------------------------------------------ */

static void run_udp(void)
{
	struct mmsghdr messages[UDP_BATCH] = {};
	struct iovec data = {.iov_base = "0123456789012345678901", .iov_len = 22};
	int fds[UDP_SOCKETS];
	double begin, now, cpu_begin;

	for (int i = 0; i < UDP_BATCH; i++)
		messages[i].msg_hdr = (struct msghdr){.msg_iov = &data, .msg_iovlen = 1};
	for (int i = 0; i < UDP_SOCKETS; i++) {
		fds[i] = open_socket(SOCK_DGRAM);
		if (connect_to(fds[i], next_target()))
			die_errno("Cannot connect a UDP socket");
	}
	find_softirq_clock();
	begin = now = now_s();
	cpu_begin = cpu_s();
	while (now < begin + seconds) {
		for (int i = 0; i < UDP_SOCKETS; i++) {
			int count = sendmmsg(fds[i], messages, UDP_BATCH, 0);

			if (count > 0)
				sent += count;
			else
				wrong++;
		}
		now = now_s();
	}
	printf("{\"sent\":%lu,\"lost\":0,\"wrong\":%lu,\"seconds\":%.9f,\"cpu_s\":%.9f}\n", sent,
	       wrong, now - begin, cpu_s() - cpu_begin);
}

static struct tcp_info info_of(int fd)
{
	struct tcp_info info = {};
	socklen_t size = sizeof(info);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size))
		die_errno("Cannot read what a connection did");
	return info;
}

/* Sends until then; false: the connection broke. */
static bool send_until(int fd, double end)
{
	static char data[1 << 17];

	while (now_s() < end) {
		if (send(fd, data, sizeof(data), MSG_NOSIGNAL) < 0)
			return false;
	}
	return true;
}

static void run_bulk(void)
{
	int fd = open_socket(SOCK_STREAM);
	struct tcp_info before = {}, after = {};
	double begin = 0, end = 0;

	sent = 1;
	if (connect_to(fd, next_target()) || send(fd, "bulk\n", 5, MSG_NOSIGNAL) != 5)
		lost = 1;
	else if (read_answer(fd, 0) == 0 && send_until(fd, now_s() + warm_up)) {
		before = info_of(fd);
		begin = now_s();
		lost = !send_until(fd, begin + seconds);
		after = info_of(fd);
		end = now_s();
	}
	printf("{\"sent\":%lu,\"lost\":%lu,\"wrong\":%lu,\"bytes\":%llu,\"seconds\":%.9f,"
	       "\"retransmits\":%u}\n",
	       sent, lost, wrong, after.tcpi_bytes_acked - before.tcpi_bytes_acked, end - begin,
	       after.tcpi_total_retrans - before.tcpi_total_retrans);
}

/* Twice: to some, a flow is established only when the client has answered. */
static bool greet_from(int fd)
{
	for (int n = 0; n < 2; n++) {
		if (send(fd, "who\n", 4, 0) != 4) {
			lost++;
			return false;
		}
		if (read_answer(fd, 0) < 0)
			return false;
	}
	return true;
}

/* Ends at the first that is not answered: then there is nothing to measure. */
static void greet(void)
{
	bool answered = true;

	for (int i = 0; i < GREET_FLOWS && answered; i++) {
		struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(GREET_PORT + i)};
		int fd = open_socket(SOCK_DGRAM);

		sent++;
		if (bind(fd, (void *)&own, sizeof(own)) || connect_to(fd, next_target()))
			die_errno("Cannot use a port for greetings");
		answered = greet_from(fd);
		close(fd);
	}
	printf("{\"sent\":%lu,\"lost\":%lu,\"wrong\":%lu}\n", sent, lost, wrong);
}

int main(int argc, char **argv)
{
	if (argc < 8 || argc - 7 > MOST_TARGETS)
		die("usage: client WHAT SECONDS WARM-UP FLOW SEEN NAME[,NAME] TO:PORT [TO:PORT …]");
	seconds = atof(argv[2]);
	warm_up = atof(argv[3]);
	next_flow = atol(argv[4]);
	seen_as = argv[5];
	names = argv[6];
	for (int i = 7; i < argc; i++)
		targets[target_count++] = parse_endpoint(argv[i]);
	if (!strcmp(argv[1], "connect"))
		repeat(connect_once);
	else if (!strcmp(argv[1], "first"))
		repeat(first_once);
	else if (!strcmp(argv[1], "requests"))
		run_requests();
	else if (!strcmp(argv[1], "udp"))
		run_udp();
	else if (!strcmp(argv[1], "bulk"))
		run_bulk();
	else if (!strcmp(argv[1], "greet"))
		greet();
	else
		die("%s is nothing that a client does", argv[1]);
	return 0;
}
