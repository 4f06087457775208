/*
 * Preloaded into QEMU: says on stderr when the first vCPU enters the guest, on the clock that our own trace uses
 * (CLOCK_MONOTONIC). The monitor of `sandbox` notes "kernel entered" at the same place, so both starts are counted from the same event.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include <linux/kvm.h>

int ioctl(int fd, unsigned long request, ...)
{
	static int (*_Atomic next)(int, unsigned long, void *);
	static atomic_flag said = ATOMIC_FLAG_INIT;
	va_list list;

	va_start(list, request);
	void *argument = va_arg(list, void *);
	va_end(list);
	if (!next)
		next = (int (*)(int, unsigned long, void *))dlsym(RTLD_NEXT, "ioctl");
	if (request == KVM_RUN && !atomic_flag_test_and_set(&said)) {
		struct timespec now;
		clock_gettime(CLOCK_MONOTONIC, &now);
		fprintf(stderr, "first KVM_RUN: %ld\n", now.tv_sec * 1000000 + now.tv_nsec / 1000);
	}
	return next(fd, request, argument);
}
