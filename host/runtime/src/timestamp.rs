//! Times of day as RFC 3339 wants them, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, with nanoseconds.
pub fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format(since.as_secs(), Some(since.subsec_nanos()))
}

/// Now, in seconds.
pub fn now_seconds() -> String {
    format(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(), None)
}

/// Seconds since the Unix epoch, with or without a fraction.
fn format(seconds: u64, nanoseconds: Option<u32>) -> String {
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let fraction = nanoseconds.map_or_else(String::new, |nanoseconds| format!(".{nanoseconds:09}"));
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// Year, month and day of a day since the Unix epoch. Years begin in March here, so that a leap day is a year's last.
fn date(days: u64) -> (u64, u64, u64) {
    const CYCLE: u64 = 146_097; // days in 400 years
    let day = days + 719_468; // since the 1st of March of the year 0
    let of_cycle = day % CYCLE;
    let year = (of_cycle - of_cycle / 1460 + of_cycle / 36_524 - of_cycle / 146_096) / 365;
    let of_year = of_cycle - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (day / CYCLE * 400 + year + carry, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(format(0, None), "1970-01-01T00:00:00Z");
        assert_eq!(format(951_782_400, None), "2000-02-29T00:00:00Z");
        assert_eq!(format(1_709_251_199, Some(5)), "2024-02-29T23:59:59.000000005Z");
        assert_eq!(format(1_709_251_200, None), "2024-03-01T00:00:00Z");
        assert_eq!(format(4_102_444_799, None), "2099-12-31T23:59:59Z");
        assert_eq!((now().len(), now_seconds().len()), (30, 20));
    }
}
