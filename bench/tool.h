/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Small things that the programs of the benchmark share: they say why they end, tell the time, read
 * addresses. */
#ifndef BEELINE_BENCH_TOOL_H
#define BEELINE_BENCH_TOOL_H

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static inline void __attribute__((noreturn, format(printf, 1, 2))) die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

/* `what` with the reason in errno. */
static inline void __attribute__((noreturn)) die_errno(const char *what)
{
	die("%s: %s", what, strerror(errno));
}

static inline double clock_s(clockid_t clock)
{
	struct timespec t;

	if (clock_gettime(clock, &t))
		die_errno("Cannot read a clock");
	return t.tv_sec + t.tv_nsec / 1e9;
}

static inline double now_s(void)
{
	return clock_s(CLOCK_MONOTONIC);
}

static clockid_t softirq_clock = -1;

/* Of the thread `ksoftirqd/N` of this process's CPU, to which it is pinned. */
static inline void find_softirq_clock(void)
{
	DIR *processes = opendir("/proc");
	struct dirent *process;
	char wanted[32], path[300], name[32];

	snprintf(wanted, sizeof(wanted), "ksoftirqd/%d\n", sched_getcpu());
	while (processes && softirq_clock == -1 && (process = readdir(processes))) {
		snprintf(path, sizeof(path), "/proc/%s/comm", process->d_name);
		FILE *comm = fopen(path, "r");

		if (!comm)
			continue;
		if (fgets(name, sizeof(name), comm) && !strcmp(name, wanted))
			clock_getcpuclockid(atoi(process->d_name), &softirq_clock);
		fclose(comm);
	}
	if (softirq_clock == -1)
		die("Cannot find the softirq thread of CPU %d", sched_getcpu());
	closedir(processes);
}

/* What this process and that thread have run: all that becomes of what it sends, as far as that
 * happens on its CPU. What others take of the CPU is not in it. */
static inline double cpu_s(void)
{
	return clock_s(CLOCK_PROCESS_CPUTIME_ID) + clock_s(softirq_clock);
}

/* `10.0.0.1:80` */
static inline struct sockaddr_in parse_endpoint(const char *text)
{
	struct sockaddr_in parsed = {.sin_family = AF_INET};
	char address[INET_ADDRSTRLEN];
	unsigned port;

	if (sscanf(text, "%15[0-9.]:%u", address, &port) != 2 || port > 65535 ||
	    inet_pton(AF_INET, address, &parsed.sin_addr) != 1)
		die("%s is no ADDRESS:PORT", text);
	parsed.sin_port = htons(port);
	return parsed;
}

#endif
