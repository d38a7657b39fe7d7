/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Packets as a NIC would bring them: `frames DEVICE OBJECT TO-MAC FROM:PORT` sends live XDP frames
 * out of DEVICE. Told what to do by lines on stdin; ends with its input.
 *
 *   run TO:PORT TO:PORT FLOWS SECONDS MOST   {"sent": n, "rate": packets a second, "cpu_s": s}
 *
 * sends for so long, and not more than MOST packets, over so many flows, to both destinations in
 * turn (of one port); over 0 flows: every packet is of a new one, and none is used a second time.
 * cpu_s is what this process and its CPU's softirq thread ran meanwhile (tool.h).
 */
#include "load.h"
#include "tool.h"
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdbool.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* 64 bytes on the wire, without the checksum. */
#define FRAME_BYTES 60
#define BATCH 64
#define LONGEST_RUN 0x7fffffff
/* Below this a rate says nothing: where others took the CPU all the time, it goes on. */
#define LEAST_PACKETS 4096

static int generate, generators;
static struct generator config;
static unsigned ifindex;
/* New flows start where the ones before ended, at the address after FROM. */
static __u64 next_flow = PORTS_PER_ADDRESS;

static void load(const char *path)
{
	struct bpf_object *object = bpf_object__open_file(path, NULL);

	if (!object || bpf_object__load(object))
		die_errno("Cannot load the generator");
	generate = bpf_program__fd(bpf_object__find_program_by_name(object, "generate"));
	generators = bpf_object__find_map_fd_by_name(object, "generators");
}

static void configure(const char *device, const char *mac, const char *from)
{
	struct sockaddr_in source = parse_endpoint(from);
	struct ifreq request = {};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	__u8 *m = config.to_mac;

	ifindex = if_nametoindex(device);
	strncpy(request.ifr_name, device, IFNAMSIZ - 1);
	if (!ifindex || ioctl(fd, SIOCGIFHWADDR, &request))
		die_errno(device);
	close(fd);
	memcpy(config.from_mac, request.ifr_hwaddr.sa_data, 6);
	if (sscanf(mac, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", m, m + 1, m + 2, m + 3, m + 4, m + 5) != 6)
		die("%s is no MAC address", mac);
	config.saddr = ntohl(source.sin_addr.s_addr);
	config.sport = ntohs(source.sin_port);
}

static void wake(int signal)
{
	(void)signal;
}

/* To begin and to end a call takes the kernel milliseconds, so there is one, and a signal ends it.
 */
static void send_frames(unsigned most, double seconds)
{
	__u8 frame[FRAME_BYTES] = {};
	struct xdp_md context = {.data_end = sizeof(frame), .ingress_ifindex = ifindex};
	LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frame, .data_size_in = sizeof(frame),
		    .ctx_in = &context, .ctx_size_in = sizeof(context), .repeat = most,
		    .flags = BPF_F_TEST_XDP_LIVE_FRAMES, .batch_size = BATCH);
	long microseconds = seconds * 1e6;
	struct itimerval timer = {.it_value = {microseconds / 1000000, microseconds % 1000000}};
	struct itimerval off = {};

	setitimer(ITIMER_REAL, &timer, NULL);
	int error = bpf_prog_test_run_opts(generate, &options);

	setitimer(ITIMER_REAL, &off, NULL);
	if (error && error != -EINTR)
		die("Cannot send live frames: %s", strerror(-error));
}

static struct generator held(void)
{
	struct generator value;
	__u32 zero = 0;

	if (bpf_map_lookup_elem(generators, &zero, &value))
		die_errno("Cannot read the generator");
	return value;
}

static void run(const char *to, const char *other, unsigned flows, double seconds, double most)
{
	struct sockaddr_in target = parse_endpoint(to), second = parse_endpoint(other);
	struct generator start = config;
	__u32 zero = 0;

	start.daddr[0] = target.sin_addr.s_addr;
	start.daddr[1] = second.sin_addr.s_addr;
	start.dport = target.sin_port;
	start.flows = flows;
	start.next = flows ? 0 : next_flow;
	if (bpf_map_update_elem(generators, &zero, &start, 0))
		die_errno("Cannot set the generator");
	double begin_s = cpu_s();

	send_frames(most < LONGEST_RUN ? most : LONGEST_RUN, seconds);

	struct generator end = held();

	if (end.sent < LEAST_PACKETS && end.sent < most) {
		send_frames(LEAST_PACKETS, 0);
		end = held();
	}
	double took_ns = end.last_ns - end.first_ns;

	if (!flows)
		next_flow = end.next;
	printf("{\"sent\":%llu,\"rate\":%.3f,\"cpu_s\":%.9f}\n", end.sent,
	       end.timed ? end.timed / took_ns * 1e9 : 0, cpu_s() - begin_s);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	char line[256], to[32], other[32];
	unsigned flows;
	double seconds, most;

	if (argc != 5)
		die("usage: frames DEVICE OBJECT TO-MAC FROM:PORT");
	signal(SIGALRM, wake);
	load(argv[2]);
	configure(argv[1], argv[3], argv[4]);
	find_softirq_clock();
	puts("{}");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "run %31s %31s %u %lf %lf", to, other, &flows, &seconds, &most) !=
		    5)
			die("%s is no command", line);
		run(to, other, flows, seconds, most);
	}
	return 0;
}
