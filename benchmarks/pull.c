/* SPDX-License-Identifier: MIT */
/* pull COUNT CHIP OFFSET ATTRIBUTE   times from a pull of gpio-sim's ATTRIBUTE to the edge event read on the line;
 * prints median and p99 in ns. The write to the attribute is part of it. */
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

static void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
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
	int count = argc == 5 ? atoi(argv[1]) : 0, warm_up = count / 10, chip, attribute;
	int64_t *times = malloc(sizeof(*times) * (count ? count : 1));
	struct gpio_v2_line_request line = {
		.num_lines = 1,
		.config.flags = GPIO_V2_LINE_FLAG_INPUT | GPIO_V2_LINE_FLAG_EDGE_RISING | GPIO_V2_LINE_FLAG_EDGE_FALLING,
	};
	struct gpio_v2_line_event event;

	if (!count)
		die("pull COUNT CHIP OFFSET ATTRIBUTE");
	if ((chip = open(argv[2], O_RDWR)) < 0)
		die(argv[2]);
	line.offsets[0] = atoi(argv[3]);
	if (ioctl(chip, GPIO_V2_GET_LINE_IOCTL, &line) < 0)
		die("GET_LINE");
	if ((attribute = open(argv[4], O_WRONLY)) < 0)
		die(argv[4]);
	for (int i = -warm_up; i < count; i++) {
		const char *pull = (i + warm_up) & 1 ? "pull-down" : "pull-up";
		int64_t start = now_ns();

		if (pwrite(attribute, pull, strlen(pull), 0) < 0 || read(line.fd, &event, sizeof(event)) != sizeof(event))
			die("edge");
		if (i >= 0)
			times[i] = now_ns() - start;
	}
	if ((count + warm_up) & 1) /* as it was */
		pwrite(attribute, "pull-down", 9, 0);
	qsort(times, count, sizeof(*times), compare);
	printf("%lld %lld\n", (long long)times[count / 2], (long long)times[count * 99LL / 100]);
	return 0;
}
