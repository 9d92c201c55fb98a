/* SPDX-License-Identifier: MIT */
/* vm_floor SOCKET   the least back-end that a guest's GPIO driver takes for one: no logic, no checks.
 * 16 lines; line 0 is wired to line 1, and vm_world pulls the others by the abstract socket of the same name.
 * Edges are told through the event queue. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LINES 16
#define FEATURES (1ULL << 32 | 1ULL << 30 | 1) /* VERSION_1, PROTOCOL_FEATURES, F_IRQ */
#define PROTOCOL (1ULL << 3 | 1ULL << 5 | 1ULL << 9) /* REPLY_ACK, BACKEND_REQ, CONFIG */

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

struct used {
	uint16_t flags, idx;
	struct {
		uint32_t id, len;
	} ring[];
};

struct region {
	uint64_t guest, size, user, offset;
	uint8_t *at;
};

static struct queue {
	struct desc *desc;
	volatile uint16_t *avail;
	volatile struct used *used;
	uint32_t size;
	uint16_t last;
	int kick, call;
} queues[2] = {{.kick = -1, .call = -1}, {.kick = -1, .call = -1}};

static struct region regions[8];
static int num_regions, epoll, front_end;
static uint8_t value[LINES], direction[LINES], irq[LINES], latched[LINES];
static int buffer[LINES];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void *at(uint64_t address, int user)
{
	for (int i = 0; i < num_regions; i++) {
		uint64_t start = user ? regions[i].user : regions[i].guest;

		if (address - start < regions[i].size)
			return regions[i].at + (address - start);
	}
	fprintf(stderr, "no memory at %llx\n", (unsigned long long)address);
	exit(1);
}

static void call(struct queue *q)
{
	uint64_t one = 1;

	if (q->call >= 0 && write(q->call, &one, 8) < 0)
		die("call");
}

static void complete(struct queue *q, uint32_t head, uint32_t len)
{
	uint16_t idx = q->used->idx;

	q->used->ring[idx & (q->size - 1)].id = head;
	q->used->ring[idx & (q->size - 1)].len = len;
	__atomic_store_n(&q->used->idx, idx + 1, __ATOMIC_RELEASE);
}

static void edge(int line)
{
	latched[line] = buffer[line] < 0;
	if (!latched[line]) {
		uint8_t *status = at(queues[1].desc[queues[1].desc[buffer[line]].next].addr, 0);

		*status = 1;
		complete(&queues[1], buffer[line], 1);
		buffer[line] = -1;
		call(&queues[1]);
	}
}

static void level(int line, int high)
{
	if (value[line] != high) {
		value[line] = high;
		if (irq[line] & (high ? 1 : 2))
			edge(line);
	}
}

static void pull(int world)
{
	char text[128] = "", *line;

	if (recv(world, text, sizeof(text) - 1, 0) <= 0) {
		close(world);
		return;
	}
	line = strstr(text, "a:");
	level(atoi(line + 2), strstr(line, "up") != NULL);
	if (send(world, "{}", 2, 0) < 0)
		die("pull");
}

static void request(struct queue *q, uint16_t head)
{
	struct desc *in = &q->desc[head], *out = &q->desc[in->next];
	struct {
		uint16_t type, gpio;
		uint32_t value;
	} *r = at(in->addr, 0);
	uint8_t *answer = at(out->addr, 0);

	answer[0] = answer[1] = 0;
	switch (r->type) {
	case 2:
		answer[1] = direction[r->gpio] ? direction[r->gpio] : 2;
		break;
	case 3:
		direction[r->gpio] = r->value;
		break;
	case 4:
		answer[1] = value[r->gpio];
		break;
	case 5:
		value[r->gpio] = r->value;
		if (r->gpio == 0)
			level(1, r->value);
		break;
	case 6:
		irq[r->gpio] = r->value;
		latched[r->gpio] = 0;
		if (!r->value && buffer[r->gpio] >= 0) {
			*(uint8_t *)at(queues[1].desc[queues[1].desc[buffer[r->gpio]].next].addr, 0) = 0;
			complete(&queues[1], buffer[r->gpio], 1);
			buffer[r->gpio] = -1;
			call(&queues[1]);
		}
		break;
	default:
		answer[0] = 1;
	}
	complete(q, head, 2);
}

static void serve(int index)
{
	struct queue *q = &queues[index];
	uint16_t first = q->last;

	while (q->size && q->last != __atomic_load_n(&q->avail[1], __ATOMIC_ACQUIRE)) {
		uint16_t head = q->avail[2 + (q->last++ & (q->size - 1))];

		if (index) {
			uint16_t line = *(uint16_t *)at(q->desc[head].addr, 0);

			buffer[line] = head;
			if (latched[line])
				edge(line);
		} else {
			request(q, head);
		}
	}
	if (!index && q->last != first)
		call(q);
}

static void reply(uint32_t *header, const void *payload, uint32_t size)
{
	uint8_t out[300];

	header[1] = 5;
	header[2] = size;
	memcpy(out, header, 12);
	memcpy(out + 12, payload, size);
	if (write(front_end, out, 12 + size) < 0)
		die("reply");
}

static void message(void)
{
	uint32_t header[3], *payload;
	uint8_t data[512] = {0};
	union {
		char bytes[CMSG_SPACE(8 * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec part = {header, 12};
	struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	struct epoll_event event = {.events = EPOLLIN | EPOLLET};
	int fds[8] = {-1, -1, -1, -1, -1, -1, -1, -1};
	uint64_t u64 = 0;
	struct queue *q;

	if (recvmsg(front_end, &m, MSG_WAITALL) != 12)
		exit(0);
	if (CMSG_FIRSTHDR(&m))
		memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&m)), CMSG_FIRSTHDR(&m)->cmsg_len - CMSG_LEN(0));
	if (header[2] && recv(front_end, data, header[2], MSG_WAITALL) != (ssize_t)header[2])
		exit(0);
	payload = (uint32_t *)data;
	q = &queues[payload[0] & 1];
	switch (header[0]) {
	case 1: /* GET_FEATURES */
		u64 = FEATURES;
		reply(header, &u64, 8);
		return;
	case 15: /* GET_PROTOCOL_FEATURES */
		u64 = PROTOCOL;
		reply(header, &u64, 8);
		return;
	case 17: /* GET_QUEUE_NUM */
		u64 = 2;
		reply(header, &u64, 8);
		return;
	case 24: /* GET_CONFIG: no names */
		data[12] = LINES;
		data[13] = data[14] = data[15] = data[16] = data[17] = data[18] = data[19] = 0;
		reply(header, data, header[2]);
		return;
	case 5: /* SET_MEM_TABLE */
		num_regions = payload[0];
		for (int i = 0; i < num_regions; i++) {
			memcpy(&regions[i], data + 8 + 32 * i, 32);
			regions[i].at = mmap(NULL, regions[i].size + regions[i].offset, PROT_READ | PROT_WRITE,
					     MAP_SHARED, fds[i], 0);
			if (regions[i].at == MAP_FAILED)
				die("mmap");
			regions[i].at += regions[i].offset;
		}
		break;
	case 8: /* SET_VRING_NUM */
		q->size = payload[1];
		break;
	case 9: /* SET_VRING_ADDR */
		q->desc = at(*(uint64_t *)(data + 8), 1);
		q->used = at(*(uint64_t *)(data + 16), 1);
		q->avail = at(*(uint64_t *)(data + 24), 1);
		break;
	case 10: /* SET_VRING_BASE */
		q->last = payload[1];
		break;
	case 11: /* GET_VRING_BASE */
		payload[1] = q->last;
		reply(header, data, 8);
		return;
	case 12: /* SET_VRING_KICK */
		q->kick = fds[0];
		event.data.fd = q - queues;
		if (epoll_ctl(epoll, EPOLL_CTL_ADD, q->kick, &event))
			die("epoll_ctl");
		break;
	case 13: /* SET_VRING_CALL */
		q->call = fds[0];
		break;
	}
	if (header[1] & 8)
		reply(header, &u64, 8);
}

int main(int argc, char **argv)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct epoll_event event = {.events = EPOLLIN, .data.fd = 2};
	int listener = socket(AF_UNIX, SOCK_STREAM, 0), worlds = socket(AF_UNIX, SOCK_SEQPACKET, 0), world = -1;
	socklen_t length;

	strncpy(address.sun_path, argc == 2 ? argv[1] : "", sizeof(address.sun_path) - 2);
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 1))
		die("bind");
	length = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(address.sun_path);
	memmove(address.sun_path + 1, address.sun_path, sizeof(address.sun_path) - 1);
	address.sun_path[0] = 0;
	if (bind(worlds, (struct sockaddr *)&address, length) || listen(worlds, 1))
		die("bind");
	front_end = accept(listener, NULL, NULL);
	epoll = epoll_create1(0);
	epoll_ctl(epoll, EPOLL_CTL_ADD, front_end, &event);
	event.data.fd = 3;
	epoll_ctl(epoll, EPOLL_CTL_ADD, worlds, &event);
	memset(buffer, -1, sizeof(buffer));
	for (;;) {
		struct epoll_event ready[4];
		int count = epoll_wait(epoll, ready, 4, -1);

		for (int i = 0; i < count; i++)
			switch (ready[i].data.fd) {
			case 2:
				message();
				break;
			case 3:
				world = accept(worlds, NULL, NULL);
				event.data.fd = 4;
				epoll_ctl(epoll, EPOLL_CTL_ADD, world, &event);
				break;
			case 4:
				pull(world);
				break;
			default:
				serve(ready[i].data.fd);
			}
	}
}
