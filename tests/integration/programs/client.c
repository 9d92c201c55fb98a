/* SPDX-License-Identifier: MIT */
/* A client without any library: line 0 is driven, line 1, wired to it, is watched. uAPI v2, then v1. */
#include <errno.h>
#include <fcntl.h>
#include <linux/gpio.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int must(int result, const char *what)
{
	if (result < 0) {
		printf("%s: %s\n", what, strerror(errno));
		_exit(1);
	}
	return result;
}

static void v2(int chip)
{
	struct gpio_v2_line_request out = {
		.offsets = {0}, .num_lines = 1, .consumer = "c-out",
		.config = {.flags = GPIO_V2_LINE_FLAG_OUTPUT},
	};
	struct gpio_v2_line_request in = {
		.offsets = {1}, .num_lines = 1, .consumer = "c-in",
		.config = {.flags = GPIO_V2_LINE_FLAG_INPUT | GPIO_V2_LINE_FLAG_EDGE_RISING | GPIO_V2_LINE_FLAG_EDGE_FALLING},
	};
	struct gpio_v2_line_values values = {.mask = 1};
	struct gpio_v2_line_event event;

	must(ioctl(chip, GPIO_V2_GET_LINE_IOCTL, &out), "GET_LINE out");
	must(ioctl(chip, GPIO_V2_GET_LINE_IOCTL, &in), "GET_LINE in");
	struct pollfd poll_in = {.fd = in.fd, .events = POLLIN};
	for (int i = 1; i <= 3; i++) {
		values.bits = i & 1;
		must(ioctl(out.fd, GPIO_V2_LINE_SET_VALUES_IOCTL, &values), "SET_VALUES");
		values.bits = 2;
		must(ioctl(in.fd, GPIO_V2_LINE_GET_VALUES_IOCTL, &values), "GET_VALUES");
		must(poll(&poll_in, 1, 5000), "poll");
		if (read(in.fd, &event, sizeof(event)) != sizeof(event))
			must(-1, "read");
		printf("v2 value %d event %u seqno %u offset %u\n", (int)values.bits, event.id, event.seqno, event.offset);
	}
	close(out.fd);
	close(in.fd);
}

static void v1(int chip)
{
	struct gpiohandle_request out = {
		.lineoffsets = {0}, .lines = 1, .flags = GPIOHANDLE_REQUEST_OUTPUT, .consumer_label = "c-v1",
	};
	struct gpioevent_request in = {
		.lineoffset = 1, .handleflags = GPIOHANDLE_REQUEST_INPUT, .eventflags = GPIOEVENT_REQUEST_BOTH_EDGES,
	};
	struct gpiohandle_data data = {.values = {1}};
	struct gpioevent_data event;

	must(ioctl(chip, GPIO_GET_LINEHANDLE_IOCTL, &out), "GET_LINEHANDLE");
	must(ioctl(chip, GPIO_GET_LINEEVENT_IOCTL, &in), "GET_LINEEVENT");
	must(ioctl(out.fd, GPIOHANDLE_SET_LINE_VALUES_IOCTL, &data), "SET_LINE_VALUES");
	if (read(in.fd, &event, sizeof(event)) != sizeof(event))
		must(-1, "read");
	printf("v1 event %u size %zu\n", event.id, sizeof(event));
	close(out.fd);
	close(in.fd);
}

int main(void)
{
	struct gpiochip_info info;
	int chip = must(open("/dev/gpiochip0", O_RDWR | O_CLOEXEC), "open");

	must(ioctl(chip, GPIO_GET_CHIPINFO_IOCTL, &info), "GET_CHIPINFO");
	printf("%s %s %u\n", info.name, info.label, info.lines);
	v2(chip);
	v1(chip);
	if (ioctl(chip, GPIO_GET_CHIPINFO_IOCTL, (void *)8) < 0)
		printf("bad address: %s\n", strerror(errno));
	return 0;
}
