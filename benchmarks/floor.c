/* SPDX-License-Identifier: MIT */
/* floor bare|full PROGRAM ARGUMENT...   the least a supervisor can do, in C: what gpiovirt is measured against.
 *
 * bare: receive the trapped ioctl, answer. full: also find out which file it is for, read the caller's
 * argument and write it back, as every supervisor that looks at its calls must. Neither has chips: a get
 * answers what was asked, a set is an edge on every line requested for edges. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/gpio.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP 1
#endif

static int install(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_ioctl, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xff00),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0xb400, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = sizeof(filter) / sizeof(*filter), .filter = filter};

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
		       SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &program);
}

static void serve(int listener, int full)
{
	struct seccomp_notif call;
	struct gpio_v2_line_request request;
	struct gpio_v2_line_event event = {.id = 1};
	int edges = -1;

	for (;;) {
		struct pollfd waiting = {.fd = listener, .events = POLLIN};
		struct seccomp_notif_resp answer = {0};
		unsigned int size;
		char path[64], argument[1024];
		struct stat status;
		int memory = -1;

		if (!full)
			; /* a blocking receive is the fastest there is */
		else if (poll(&waiting, 1, -1) < 0 || !(waiting.revents & POLLIN))
			return;
		memset(&call, 0, sizeof(call));
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) < 0) {
			if (errno == ENOENT || errno == EINTR)
				continue;
			return;
		}
		answer.id = call.id;
		size = _IOC_SIZE(call.data.args[1]);
		if (full || (unsigned int)call.data.args[1] == GPIO_V2_GET_LINE_IOCTL) {
			snprintf(path, sizeof(path), "/proc/%u/fd/%u", call.pid, (unsigned int)call.data.args[0]);
			stat(path, &status);
			snprintf(path, sizeof(path), "/proc/%u/mem", call.pid);
			memory = open(path, O_RDWR | O_CLOEXEC);
			ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &call.id);
			if (pread(memory, argument, size, call.data.args[2]) != (ssize_t)size)
				answer.error = -EFAULT;
		}
		if ((unsigned int)call.data.args[1] == GPIO_V2_GET_LINE_IOCTL) {
			int ends[2];
			struct seccomp_notif_addfd addfd = {.id = call.id};

			memcpy(&request, argument, sizeof(request));
			if (pipe2(ends, O_CLOEXEC) < 0)
				exit(1);
			addfd.srcfd = ends[0];
			addfd.newfd_flags = O_CLOEXEC;
			request.fd = ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &addfd);
			close(ends[0]);
			if (request.config.flags & GPIO_V2_LINE_FLAG_EDGE_RISING)
				edges = ends[1];
			else
				close(ends[1]);
			memcpy(argument, &request, sizeof(request));
		}
		if ((unsigned int)call.data.args[1] == GPIO_V2_LINE_SET_VALUES_IOCTL && edges >= 0 &&
		    write(edges, &event, sizeof(event)) < 0)
			exit(1);
		if (memory >= 0) {
			if ((unsigned int)call.data.args[1] != GPIO_V2_LINE_SET_VALUES_IOCTL &&
			    pwrite(memory, argument, size, call.data.args[2]) != (ssize_t)size)
				answer.error = -EFAULT;
			close(memory);
		}
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
}

int main(int argc, char **argv)
{
	int ends[2], listener, full = argc > 2 && !strcmp(argv[1], "full");
	pid_t program;

	if (argc < 3 || pipe(ends) < 0)
		return 2;
	program = fork();
	if (!program) {
		listener = install();
		if (listener < 0 || write(ends[1], &listener, sizeof(listener)) < 0)
			_exit(1);
		usleep(20000); /* until the supervisor has its copy */
		close(listener);
		execvp(argv[2], argv + 2);
		_exit(1);
	}
	if (read(ends[0], &listener, sizeof(listener)) != sizeof(listener))
		return 1;
	listener = syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, program, 0), listener, 0);
	ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
	pid_t server = fork();
	if (!server) {
		serve(listener, full);
		_exit(0);
	}
	waitpid(program, NULL, 0);
	kill(server, SIGKILL);
	waitpid(server, NULL, 0);
	return 0;
}
