/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Packets as a NIC would bring them: `frames DEVICE OBJECT TO-MAC FROM:PORT TO:PORT` sends live XDP
 * frames out of DEVICE. Told what to do by lines on stdin; ends with its input.
 *
 *   run FLOWS SECONDS MOST   over so many flows (0: every packet a new one, never one that was used
 * before), for so long and not more than MOST packets: {"sent": n, "seconds": s}
 */
#include "load.h"
#include "tool.h"
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* 64 bytes on the wire, without the checksum. */
#define FRAME_BYTES 60
#define BATCH 64
/* Between two looks at the clock: some milliseconds. */
#define CHUNK (64 * BATCH)

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

static void configure(const char *device, const char *mac, const char *from, const char *to)
{
	struct sockaddr_in source = parse_endpoint(from), target = parse_endpoint(to);
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
	config.daddr = target.sin_addr.s_addr;
	config.dport = target.sin_port;
}

static void send_frames(unsigned count)
{
	__u8 frame[FRAME_BYTES] = {};
	struct xdp_md context = {.data_end = sizeof(frame), .ingress_ifindex = ifindex};
	LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frame, .data_size_in = sizeof(frame),
		    .ctx_in = &context, .ctx_size_in = sizeof(context), .repeat = count,
		    .flags = BPF_F_TEST_XDP_LIVE_FRAMES, .batch_size = BATCH);
	int error = bpf_prog_test_run_opts(generate, &options);

	if (error && error != -EINTR)
		die("Cannot send live frames: %s", strerror(-error));
}

static __u64 made(void)
{
	struct generator held;
	__u32 zero = 0;

	if (bpf_map_lookup_elem(generators, &zero, &held))
		die_errno("Cannot read the generator");
	return held.made;
}

static void run(unsigned flows, double seconds, __u64 most)
{
	struct generator start = config;
	__u32 zero = 0;
	__u64 left = most;

	start.flows = flows;
	start.made = flows ? 0 : next_flow;
	if (bpf_map_update_elem(generators, &zero, &start, 0))
		die_errno("Cannot set the generator");
	double begin = now_s(), end = begin;

	while (end - begin < seconds && left > 0) {
		unsigned count = left < CHUNK ? left : CHUNK;

		send_frames(count);
		left -= count;
		end = now_s();
	}
	__u64 last = made();

	if (!flows)
		next_flow = last;
	printf("{\"sent\":%llu,\"seconds\":%.9f}\n", last - start.made, end - begin);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	char line[256];
	unsigned flows;
	double seconds;
	unsigned long long most;

	if (argc != 6)
		die("usage: frames DEVICE OBJECT TO-MAC FROM:PORT TO:PORT");
	load(argv[2]);
	configure(argv[1], argv[3], argv[4], argv[5]);
	puts("{}");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "run %u %lf %llu", &flows, &seconds, &most) != 3)
			die("%s is no command", line);
		run(flows, seconds, most);
	}
	return 0;
}
