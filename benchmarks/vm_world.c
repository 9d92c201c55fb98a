/* SPDX-License-Identifier: MIT */
/* vm_world NAME RATE COUNT LINES   the world outside of a simulated chip "a": COUNT edges, RATE a second, on lines
 * 2, 3 ... of LINES in turn, by the abstract socket NAME. No two come closer than the rate says: after a stall, the
 * rest is later. Prints how often this program itself was late by more than half a period. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

static long long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int world = socket(AF_UNIX, SOCK_SEQPACKET, 0), stalls = 0;
	size_t length = argc == 5 ? strlen(argv[1]) : sizeof(address.sun_path);
	long long period_ns, next_ns;
	char message[128], reply[128];

	if (length > sizeof(address.sun_path) - 1)
		return 2;
	memcpy(address.sun_path + 1, argv[1], length);
	if (connect(world, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + 1 + length)) {
		perror(argv[1]);
		return 1;
	}
	period_ns = 1000000000LL / atoi(argv[2]);
	next_ns = now_ns();
	for (int i = 0, lines = atoi(argv[4]); i < atoi(argv[3]); i++) {
		int size = sprintf(message, "{\"do\": \"pull\", \"line\": \"a:%d\", \"level\": \"%s\"}", 2 + i % lines,
				   i / lines & 1 ? "down" : "up");
		struct timespec until = {next_ns / 1000000000LL, next_ns % 1000000000LL};

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		if (now_ns() - next_ns > period_ns / 2) {
			stalls++;
			next_ns = now_ns();
		}
		next_ns += period_ns;
		if (send(world, message, size, 0) != size || recv(world, reply, sizeof(reply), 0) <= 0) {
			perror("pull");
			return 1;
		}
	}
	printf("%d\n", stalls);
	return 0;
}
