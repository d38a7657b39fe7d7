/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Small things that the programs of the benchmark share: they say why they end, tell the time, read
 * addresses. */
#ifndef BEELINE_BENCH_TOOL_H
#define BEELINE_BENCH_TOOL_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
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

static inline double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
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
