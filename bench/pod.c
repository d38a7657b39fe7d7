/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * A pod of the benchmark: `pod NAME PORT DEVICE OBJECT`. Answers `NAME CLIENT:PORT` over TCP and
 * UDP, swallows bulk data, and counts packets by XDP or tc in front of its sockets. Told what to do
 * by lines on stdin; ends with its input.
 *
 *   sink xdp|tc|off ADDRESS:PORT   counts packets to this address from now on, from 0
 *   count                          {"right": n, "wrong": n}
 */
#include "load.h"
#include "tool.h"
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST_FDS 65536
#define BATCH 256

static const char *name;
static unsigned ifindex;
static int epoll;
/* Connections that send bulk data. */
static bool is_bulk[MOST_FDS];
static char buffer[1 << 18];

static void watch(int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

	if (fd >= MOST_FDS || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
		die_errno("Cannot wait for a connection");
}

static int answer(char *text, size_t size, const struct sockaddr_in *client)
{
	char address[INET_ADDRSTRLEN];

	inet_ntop(AF_INET, &client->sin_addr, address, sizeof(address));
	return snprintf(text, size, "%s %s:%u\n", name, address, ntohs(client->sin_port));
}

static void hang_up(int fd)
{
	is_bulk[fd] = false;
	close(fd);
}

static void accept_all(int listener)
{
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0)
			return;
		is_bulk[fd] = false;
		watch(fd);
	}
}

static void read_connection(int fd)
{
	ssize_t length = read(fd, buffer, sizeof(buffer));
	struct sockaddr_in client;
	socklen_t size = sizeof(client);
	char text[128];

	if (length < 0 && errno == EAGAIN)
		return;
	if (length <= 0 || getpeername(fd, (void *)&client, &size))
		return hang_up(fd);
	if (is_bulk[fd])
		return;
	is_bulk[fd] = buffer[0] == 'b';
	if (write(fd, text, answer(text, sizeof(text), &client)) < 0 || !is_bulk[fd])
		hang_up(fd);
}

static void answer_datagrams(int fd)
{
	struct sockaddr_in client;
	char text[128];

	for (int i = 0; i < BATCH; i++) {
		socklen_t size = sizeof(client);

		if (recvfrom(fd, buffer, sizeof(buffer), 0, (void *)&client, &size) < 0)
			return;
		sendto(fd, text, answer(text, sizeof(text), &client), 0, (void *)&client, size);
	}
}

static int listen_on(int type, const struct sockaddr_in *at)
{
	int fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1, size = 1 << 22;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	if (fd < 0 || bind(fd, (const void *)at, sizeof(*at)) ||
	    (type == SOCK_STREAM && listen(fd, 4096)))
		die_errno("Cannot serve");
	watch(fd);
	return fd;
}

/* ---- the sink
 * ----------------------------------------------------------------------------------------------------
 */

static struct bpf_object *object;
static enum { SINK_OFF, SINK_XDP, SINK_TC } attached;
static struct bpf_tc_opts filter = {.sz = sizeof(filter)};

/* libbpf looks at the padding as well. */
static struct bpf_tc_hook ingress = {.sz = sizeof(ingress), .attach_point = BPF_TC_INGRESS};

static int program_of(const char *program)
{
	return bpf_program__fd(bpf_object__find_program_by_name(object, program));
}

static int map_of(const char *map)
{
	return bpf_object__find_map_fd_by_name(object, map);
}

static void detach(void)
{
	filter.flags = filter.prog_fd = filter.prog_id = 0;
	if (attached == SINK_XDP && bpf_xdp_detach(ifindex, XDP_FLAGS_DRV_MODE, NULL))
		die("Cannot detach the sink from XDP");
	if (attached == SINK_TC && bpf_tc_detach(&ingress, &filter))
		die("Cannot detach the sink from tc");
	attached = SINK_OFF;
}

static void attach_xdp(void)
{
	int error = bpf_xdp_attach(ifindex, program_of("sink_xdp"), XDP_FLAGS_DRV_MODE, NULL);

	if (error)
		die("Cannot attach the sink to XDP: %s", strerror(-error));
	attached = SINK_XDP;
}

static void attach_tc(void)
{
	int error = bpf_tc_hook_create(&ingress);

	filter.handle = filter.priority = 1;
	filter.prog_fd = program_of("sink_tc");
	filter.flags = BPF_TC_F_REPLACE;
	filter.prog_id = 0;
	if ((error && error != -EEXIST) || (error = bpf_tc_attach(&ingress, &filter)))
		die("Cannot attach the sink to tc: %s", strerror(-error));
	attached = SINK_TC;
}

static void set_sink(const char *kind, const char *to)
{
	int cpus = libbpf_num_possible_cpus();
	struct arrived *none = calloc(cpus, sizeof(*none));
	struct sockaddr_in at = parse_endpoint(to);
	struct sink sink = {.daddr = at.sin_addr.s_addr, .dport = at.sin_port};
	__u32 zero = 0;

	detach();
	if (bpf_map_update_elem(map_of("sinks"), &zero, &sink, 0) ||
	    bpf_map_update_elem(map_of("arrivals"), &zero, none, 0))
		die_errno("Cannot set the sink");
	free(none);
	if (!strcmp(kind, "xdp"))
		attach_xdp();
	else if (!strcmp(kind, "tc"))
		attach_tc();
	else if (strcmp(kind, "off"))
		die("%s is no sink", kind);
}

static void print_count(void)
{
	int cpus = libbpf_num_possible_cpus();
	struct arrived *arrived = calloc(cpus, sizeof(*arrived));
	__u64 right = 0, wrong = 0;
	__u32 zero = 0;

	if (bpf_map_lookup_elem(map_of("arrivals"), &zero, arrived))
		die_errno("Cannot read the sink");
	for (int i = 0; i < cpus; i++) {
		right += arrived[i].right;
		wrong += arrived[i].wrong;
	}
	free(arrived);
	printf("{\"right\":%llu,\"wrong\":%llu}\n", right, wrong);
}

static void load(const char *path)
{
	object = bpf_object__open_file(path, NULL);
	if (!object || bpf_object__load(object))
		die_errno("Cannot load the sink");
}

/* ------------------------------------------------------------------------------------------------------------------
 */

static void obey(char *line)
{
	char kind[8], to[32];

	if (sscanf(line, "sink %7s %31s", kind, to) == 2) {
		set_sink(kind, to);
		puts("{}");
	} else if (!strcmp(line, "count")) {
		print_count();
	} else {
		die("%s is no command", line);
	}
	fflush(stdout);
}

/* One line after the other: each is sent when the one before has been answered. */
static void read_commands(void)
{
	char line[256];
	ssize_t length = read(STDIN_FILENO, line, sizeof(line) - 1);

	if (length <= 0)
		exit(0);
	line[length] = 0;
	line[strcspn(line, "\n")] = 0;
	obey(line);
}

int main(int argc, char **argv)
{
	struct sockaddr_in at = {.sin_family = AF_INET};
	struct epoll_event events[BATCH];

	if (argc != 5)
		die("usage: pod NAME PORT DEVICE OBJECT");
	name = argv[1];
	at.sin_port = htons(atoi(argv[2]));
	ifindex = if_nametoindex(argv[3]);
	if (!ifindex)
		die_errno(argv[3]);
	ingress.ifindex = ifindex;
	load(argv[4]);
	epoll = epoll_create1(EPOLL_CLOEXEC);
	watch(STDIN_FILENO);
	int tcp = listen_on(SOCK_STREAM, &at), udp = listen_on(SOCK_DGRAM, &at);

	puts("{}");
	fflush(stdout);
	for (;;) {
		int count = epoll_wait(epoll, events, BATCH, -1);

		for (int i = 0; i < count; i++) {
			int fd = events[i].data.fd;

			if (fd == tcp)
				accept_all(fd);
			else if (fd == udp)
				answer_datagrams(fd);
			else if (fd == STDIN_FILENO)
				read_commands();
			else
				read_connection(fd);
		}
	}
}
