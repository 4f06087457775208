/*
 * The whole user space of a machine that is only booted to see how long that takes. Prints how far the kernel's clock and
 * the processor's counter have come when the first instruction here runs, then resets the machine.
 *
 * The kernel's clock starts a little after the kernel does; the counter starts at zero with the virtual processor, so it
 * also holds the firmware's time. tsc_us divides it by its frequency, found by comparing both clocks for 20 ms.
 */
#include <stdio.h>
#include <sys/reboot.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

static double now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

int main(void)
{
	unsigned long long tsc = __rdtsc(), later;
	double us = now_us(), us_later;

	do {
		later = __rdtsc();
		us_later = now_us();
	} while (us_later - us < 20000);
	printf("bench-init: boottime_us=%.0f tsc_us=%.0f\n", us, tsc * (us_later - us) / (later - tsc));
	fflush(stdout);
	tcdrain(1);
	reboot(RB_AUTOBOOT);
	return 0;
}
