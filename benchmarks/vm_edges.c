/* SPDX-License-Identifier: MIT */
/* vm_edges PATH LINES   counts the edges of lines 2, 3 ... of LINES until there is none for three seconds after the
 * first; prints how many came, and how many were of the same kind as the one before on their line. */
#include <fcntl.h>
#include <linux/gpio.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct gpio_v2_line_request r = {
		.consumer = "vm_edges", .event_buffer_size = 4096,
		.config = {.flags = GPIO_V2_LINE_FLAG_INPUT | GPIO_V2_LINE_FLAG_EDGE_RISING | GPIO_V2_LINE_FLAG_EDGE_FALLING}};
	struct gpio_v2_line_event events[64];
	int count = 0, doubled = 0, chip = argc == 3 ? open(argv[1], O_RDWR) : -1;
	unsigned int last[GPIO_V2_LINES_MAX] = {0}, seqno = 0;

	if (chip >= 0)
		r.num_lines = atoi(argv[2]);
	for (unsigned int i = 0; i < r.num_lines; i++)
		r.offsets[i] = 2 + i;
	if (chip < 0 || ioctl(chip, GPIO_V2_GET_LINE_IOCTL, &r) < 0) {
		perror("vm_edges");
		return 1;
	}
	for (;;) {
		struct pollfd ready = {.fd = r.fd, .events = POLLIN};
		ssize_t size;

		if (poll(&ready, 1, count ? 3000 : 20000) <= 0)
			break;
		size = read(r.fd, events, sizeof(events));
		for (int i = 0; i < (int)(size / sizeof(events[0])); i++) {
			unsigned int *before = &last[events[i].offset - 2];

			count++;
			doubled += events[i].id == *before;
			*before = events[i].id;
			seqno = events[i].seqno;
		}
	}
	if (seqno != (unsigned int)count) {
		fprintf(stderr, "vm_edges: the guest's kernel had no room for %u of %u\n", seqno - count, seqno);
		return 1;
	}
	printf("%d %d\n", count, doubled);
	return 0;
}
