/* SPDX-License-Identifier: MIT */
/* client OP COUNT PATH   times one operation of the character device, one after another; prints
 * median and p99 in ns, and how many were done in a second.
 * Lines 0 (output) and 1 (input) are wired. OPs: get set request edge many (get of lines 2 to 9). */
#include <errno.h>
#include <fcntl.h>
#include <linux/gpio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static int chip;

static void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static int request(unsigned int offset, uint64_t flags)
{
	struct gpio_v2_line_request r = {.offsets = {offset}, .num_lines = 1, .config = {.flags = flags}};

	if (ioctl(chip, GPIO_V2_GET_LINE_IOCTL, &r) < 0)
		die("GET_LINE");
	return r.fd;
}

static int request_eight(void)
{
	struct gpio_v2_line_request r = {.offsets = {2, 3, 4, 5, 6, 7, 8, 9}, .num_lines = 8, .config = {.flags = GPIO_V2_LINE_FLAG_INPUT}};

	if (ioctl(chip, GPIO_V2_GET_LINE_IOCTL, &r) < 0)
		die("GET_LINE of eight");
	return r.fd;
}

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
	int count = argc == 4 ? atoi(argv[2]) : 0, out = -1, in = -1, warm_up = count / 10;
	int64_t began = 0, took, *times = malloc(sizeof(*times) * (count ? count : 1));
	struct gpio_v2_line_values values = {.mask = 1};
	struct gpio_v2_line_event event;

	if (!count || (chip = open(argv[3], O_RDWR)) < 0)
		die("client OP COUNT PATH");
	if (argv[1][0] == 'm') {
		in = request_eight();
		values.mask = 0xff;
	} else if (strcmp(argv[1], "request")) {
		out = request(0, GPIO_V2_LINE_FLAG_OUTPUT);
		in = request(1, GPIO_V2_LINE_FLAG_INPUT | (strcmp(argv[1], "edge") ? 0 : GPIO_V2_LINE_FLAG_EDGE_RISING | GPIO_V2_LINE_FLAG_EDGE_FALLING));
	}
	for (int i = -warm_up; i < count; i++) {
		int64_t start = now_ns();

		if (!i)
			began = start;

		switch (argv[1][0]) {
		case 'g':
		case 'm':
			if (ioctl(in, GPIO_V2_LINE_GET_VALUES_IOCTL, &values) < 0)
				die("GET_VALUES");
			break;
		case 's':
			values.bits = i & 1;
			if (ioctl(out, GPIO_V2_LINE_SET_VALUES_IOCTL, &values) < 0)
				die("SET_VALUES");
			break;
		case 'r':
			close(request(0, GPIO_V2_LINE_FLAG_OUTPUT));
			break;
		case 'e':
			values.bits = i & 1;
			if (ioctl(out, GPIO_V2_LINE_SET_VALUES_IOCTL, &values) < 0 ||
			    (i > -warm_up && read(in, &event, sizeof(event)) != sizeof(event)))
				die("edge");
			break;
		}
		if (i >= 0)
			times[i] = now_ns() - start;
	}
	took = now_ns() - began;
	qsort(times, count, sizeof(*times), compare);
	printf("%lld %lld %lld\n", (long long)times[count / 2], (long long)times[count * 99LL / 100],
	       count * 1000000000LL / (long long)took);
	return 0;
}
