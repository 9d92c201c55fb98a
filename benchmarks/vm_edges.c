/* SPDX-License-Identifier: MIT */
/* vm_edges PATH   counts the edges of line 3 until there is none for a second after the first; prints
 * how many came, and how many were of the same kind as the one before. */
#include <fcntl.h>
#include <linux/gpio.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct gpio_v2_line_request r = {
		.offsets = {3}, .num_lines = 1, .consumer = "vm_edges", .event_buffer_size = 4096,
		.config = {.flags = GPIO_V2_LINE_FLAG_INPUT | GPIO_V2_LINE_FLAG_EDGE_RISING | GPIO_V2_LINE_FLAG_EDGE_FALLING}};
	struct gpio_v2_line_event events[64];
	int count = 0, doubled = 0, chip = argc == 2 ? open(argv[1], O_RDWR) : -1;
	unsigned int last = 0;

	if (chip < 0 || ioctl(chip, GPIO_V2_GET_LINE_IOCTL, &r) < 0) {
		perror("vm_edges");
		return 1;
	}
	for (;;) {
		struct pollfd ready = {.fd = r.fd, .events = POLLIN};
		ssize_t size;

		if (poll(&ready, 1, count ? 1000 : 20000) <= 0)
			break;
		size = read(r.fd, events, sizeof(events));
		for (int i = 0; i < (int)(size / sizeof(events[0])); i++) {
			count++;
			doubled += events[i].id == last;
			last = events[i].id;
		}
	}
	printf("%d %d\n", count, doubled);
	return 0;
}
