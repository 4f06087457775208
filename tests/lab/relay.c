/*
 * The lab's process 1 once the file systems are mounted: runs one command for the host's `lab` script and carries its
 * standard streams over one virtio-serial port.
 *
 * Both directions are frames: a type byte, the payload's length (32 bits, little-endian), the payload.
 *   host to lab:  E "NAME=value"   A argument   D working directory   T terminal of this size   G start the command
 *                 I standard input   Q its end   W the terminal's new size   (a size is "ROWS COLUMNS")
 *   lab to host:  R "milliseconds since the kernel started"   O standard output   S standard error   X exit status
 * One port for all keeps what the command wrote in order, and X behind the last byte.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 5, CHUNK = 32768, MAX_FRAME = 1 << 20, MAX_ARGS = 4096 };

static int port;
static char *args[MAX_ARGS + 1];
static int arg_count;
static int terminal = -1; /* the pty's controlling side, if there is one */
static int child_in = -1, child_out = -1, child_err = -1;
static pid_t child = -1;

/* Standard input that the command has not taken yet. While there is some, the port is not read: that is the back-pressure. */
static char pending[MAX_FRAME];
static size_t pending_at, pending_end;
static int stdin_ended;

static void die(const char *what)
{
	fprintf(stderr, "lab relay: %s: %s\n", what, strerror(errno));
	reboot(RB_AUTOBOOT);
	_exit(1);
}

static void write_all(int fd, const char *data, size_t size)
{
	while (size > 0) {
		ssize_t n = write(fd, data, size);
		if (n < 0 && errno == EAGAIN)
			poll(&(struct pollfd){ .fd = fd, .events = POLLOUT }, 1, -1);
		else if (n < 0 && errno != EINTR)
			die("cannot write to the host");
		else if (n > 0)
			data += n, size -= n;
	}
}

static void send_frame(char type, const char *data, uint32_t size)
{
	static char frame[HEADER + CHUNK];

	frame[0] = type;
	memcpy(frame + 1, &size, 4);
	memcpy(frame + HEADER, data, size);
	write_all(port, frame, HEADER + size);
}

static void send_text(char type, const char *format, ...)
{
	char text[64];
	va_list list;

	va_start(list, format);
	int size = vsnprintf(text, sizeof text, format, list);
	va_end(list);
	send_frame(type, text, size);
}

static void resize(const char *size)
{
	struct winsize window = { 0 };

	if (terminal >= 0 && sscanf(size, "%hu %hu", &window.ws_row, &window.ws_col) == 2)
		ioctl(terminal, TIOCSWINSZ, &window);
}

static void run_child(const int in[2], const int out[2], const int err[2])
{
	sigset_t none;

	setsid();
	if (terminal >= 0) {
		int tty = open(ptsname(terminal), O_RDWR);
		ioctl(tty, TIOCSCTTY, 0);
		for (int fd = 0; fd <= 2; fd++)
			dup2(tty, fd);
	} else {
		dup2(in[0], 0);
		dup2(out[1], 1);
		dup2(err[1], 2);
	}
	closefrom(3);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	execvp(args[0], args);
	fprintf(stderr, "lab: cannot run %s: %s\n", args[0], strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

static void start(void)
{
	int in[2], out[2], err[2];

	if (terminal < 0 && (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)))
		die("cannot make pipes");
	child = fork();
	if (child < 0)
		die("cannot start a process");
	if (child == 0)
		run_child(in, out, err);
	if (terminal >= 0) {
		child_in = child_out = terminal;
		fcntl(terminal, F_SETFL, O_NONBLOCK);
		return;
	}
	close(in[0]);
	close(out[1]);
	close(err[1]);
	child_in = in[1];
	child_out = out[0];
	child_err = err[0];
	fcntl(child_in, F_SETFL, O_NONBLOCK);
}

static void stop_input(void)
{
	if (child_in >= 0 && child_in != terminal)
		close(child_in);
	child_in = -1;
	pending_at = pending_end = 0;
}

static void feed(void)
{
	if (child_in >= 0 && pending_at < pending_end) {
		ssize_t n = write(child_in, pending + pending_at, pending_end - pending_at);
		if (n > 0)
			pending_at += n;
		else if (n < 0 && errno != EAGAIN && errno != EINTR)
			stop_input(); /* the command closed it: what comes now is dropped */
	}
	if (child_in < 0 || pending_at == pending_end) {
		pending_at = pending_end = 0;
		if (stdin_ended)
			stop_input();
	}
}

/* The payload is followed by a NUL that is not part of it. */
static void handle(char type, char *data, size_t size)
{
	switch (type) {
	case 'E': putenv(strdup(data)); break;
	case 'A':
		if (arg_count < MAX_ARGS)
			args[arg_count++] = strdup(data);
		break;
	case 'D':
		if (chdir(data) && chdir("/"))
			die("cannot enter a directory");
		break;
	case 'T':
		terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (terminal < 0 || grantpt(terminal) || unlockpt(terminal))
			die("cannot make a terminal");
		resize(data);
		break;
	case 'G': start(); break;
	case 'I':
		memcpy(pending, data, size);
		pending_at = 0, pending_end = size;
		feed();
		break;
	case 'Q':
		stdin_ended = 1;
		feed();
		break;
	case 'W': resize(data); break;
	}
}

static char received[HEADER + MAX_FRAME + 1];
static size_t received_size;

static void read_port(void)
{
	ssize_t n = read(port, received + received_size, HEADER + MAX_FRAME - received_size);

	if (n == 0)
		die("the host has closed the connection");
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		die("cannot read from the host");
	if (n > 0)
		received_size += n;
}

/* Handles the frames that are complete, until one leaves input pending. */
static void handle_frames(void)
{
	while (received_size >= HEADER && pending_at == pending_end) {
		uint32_t size;
		memcpy(&size, received + 1, 4);
		if (size > MAX_FRAME)
			die("a frame from the host is too long");
		size_t end = HEADER + size;
		if (received_size < end)
			return;
		char after = received[end];
		received[end] = 0;
		handle(received[0], received + HEADER, size);
		received[end] = after;
		received_size -= end;
		memmove(received, received + end, received_size);
	}
}

/* Passes one piece of output on. Returns 0 when there is none left. */
static int pass(int *fd, char type)
{
	static char data[CHUNK];

	ssize_t n = read(*fd, data, sizeof data);
	if (n > 0)
		send_frame(type, data, n);
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		*fd = -1; /* closed by all writers; a terminal says EIO */
	return n > 0;
}

/* Ends the lab when the command has: what it wrote is passed on; what its background processes may yet write is not waited for. */
static void finish(int status)
{
	int *outputs[] = { &child_out, &child_err };

	for (int i = 0; i < 2; i++) {
		if (*outputs[i] < 0)
			continue;
		fcntl(*outputs[i], F_SETFL, O_NONBLOCK);
		while (pass(outputs[i], i ? 'S' : 'O'))
			;
	}
	int out = open(getenv("LAB_OUT") ?: "/", O_RDONLY | O_DIRECTORY);
	if (out >= 0)
		syncfs(out);
	send_text('X', "%d", WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
	for (;;)
		pause(); /* the host takes the machine away */
}

static void reap(int signals)
{
	struct signalfd_siginfo info;
	int status, ended = 0, child_status = 0;
	pid_t pid;

	(void)!read(signals, &info, sizeof info);
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		if (pid == child)
			ended = 1, child_status = status;
	if (ended)
		finish(child_status);
}

int main(int argc, char **argv)
{
	sigset_t watched;
	struct timespec now;

	port = open(argc > 1 ? argv[1] : "", O_RDWR | O_CLOEXEC);
	if (port < 0)
		die("cannot open the port to the host");
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&watched);
	sigaddset(&watched, SIGCHLD);
	sigprocmask(SIG_BLOCK, &watched, NULL);
	int signals = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
	setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 1024, 524288 });
	clock_gettime(CLOCK_BOOTTIME, &now);
	send_text('R', "%ld", now.tv_sec * 1000 + now.tv_nsec / 1000000);

	for (;;) {
		int waiting = pending_at < pending_end;
		struct pollfd fds[] = {
			{ .fd = waiting ? -1 : port, .events = POLLIN },
			{ .fd = waiting ? child_in : -1, .events = POLLOUT },
			{ .fd = child_out, .events = POLLIN },
			{ .fd = child_err, .events = POLLIN },
			{ .fd = signals, .events = POLLIN },
		};
		if (poll(fds, 5, -1) < 0 && errno != EINTR)
			die("cannot wait");
		if (fds[2].revents)
			pass(&child_out, 'O');
		if (fds[3].revents)
			pass(&child_err, 'S');
		if (fds[1].revents)
			feed();
		if (fds[0].revents)
			read_port();
		handle_frames();
		if (fds[4].revents)
			reap(signals);
	}
}
