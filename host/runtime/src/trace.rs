//! The time line of a start, as Chrome trace JSON (`chrome://tracing`, Perfetto): SANDBOX_TRACE=FILE.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::error::Plain;
use crate::sys::now_ns;

/// Names the environment variable.
pub const VARIABLE: &str = "SANDBOX_TRACE";

/// The trace cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{VARIABLE} {}: {}", .path.display(), Plain(.source))]
pub struct TraceError {
    path: PathBuf,
    source: io::Error,
}

/// Who did something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The `sandbox` command.
    Command = 1,
    /// The monitor.
    Monitor = 2,
    /// The guest: kernel, agent, container.
    Guest = 3,
}

#[derive(Debug, Serialize)]
struct Event {
    name: &'static str,
    ph: &'static str,
    /// Microseconds since the command's start.
    ts: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    pid: u32,
    tid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Name>,
}

#[derive(Debug, Serialize)]
struct Name {
    name: &'static str,
}

#[derive(Debug)]
struct Output {
    path: PathBuf,
    file: File,
    events: Mutex<Vec<Event>>,
}

/// Collects what happened when. Without SANDBOX_TRACE it does nothing.
#[derive(Debug)]
pub struct Trace {
    start_ns: u64,
    output: Option<Output>,
}

impl Trace {
    /// A trace to the file that the environment names, if it does. `start_ns` is the command's start.
    pub fn from_environment(start_ns: u64) -> Result<Self, TraceError> {
        match std::env::var_os(VARIABLE) {
            Some(path) if !path.is_empty() => Self::to_file(Path::new(&path), start_ns),
            _ => Ok(Self { start_ns, output: None }),
        }
    }

    /// A trace to a file, which is made at once: a place that cannot be written is an error before anything starts.
    pub fn to_file(path: &Path, start_ns: u64) -> Result<Self, TraceError> {
        let path = path.to_path_buf();
        let file = match File::create(&path) {
            Ok(file) => file,
            Err(source) => return Err(TraceError { path, source }),
        };
        let trace = Self { start_ns, output: Some(Output { path, file, events: Mutex::default() }) };
        for (lane, name) in [(Lane::Command, "sandbox run"), (Lane::Monitor, "monitor"), (Lane::Guest, "guest")] {
            trace.add(lane, |event| Event { name: "process_name", ph: "M", args: Some(Name { name }), ..event });
            trace.add(lane, |event| Event { name: "thread_name", ph: "M", args: Some(Name { name }), ..event });
        }
        trace.at(Lane::Command, "process start", start_ns);
        Ok(trace)
    }

    fn add(&self, lane: Lane, make: impl FnOnce(Event) -> Event) {
        if let Some(output) = &self.output {
            let (pid, tid) = (lane as u32, lane as u32);
            let event = make(Event { name: "", ph: "i", ts: 0.0, dur: None, pid, tid, s: None, args: None });
            output.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        }
    }

    /// Something happened now. Returns the time.
    pub fn now(&self, lane: Lane, name: &'static str) -> u64 {
        let at = now_ns();
        self.at(lane, name, at);
        at
    }

    /// Something happened at a time of CLOCK_MONOTONIC.
    pub fn at(&self, lane: Lane, name: &'static str, at_ns: u64) {
        let ts = self.microseconds(at_ns);
        self.add(lane, |event| Event { name, ts, s: Some("p"), ..event });
    }

    /// Something lasted from one time to another.
    pub fn span(&self, lane: Lane, name: &'static str, from_ns: u64, to_ns: u64) {
        let ts = self.microseconds(from_ns);
        let dur = Some((self.microseconds(to_ns) - ts).max(0.0));
        self.add(lane, |event| Event { name, ph: "X", ts, dur, ..event });
    }

    fn microseconds(&self, at_ns: u64) -> f64 {
        at_ns.saturating_sub(self.start_ns) as f64 / 1000.0
    }

    /// Writes the file.
    pub fn write(&self) -> Result<(), TraceError> {
        let Some(Output { path, file, events }) = &self.output else {
            return Ok(());
        };
        let mut events = events.lock().unwrap_or_else(PoisonError::into_inner);
        events
            .sort_by(|a, b| (a.ph != "M", a.ts).partial_cmp(&(b.ph != "M", b.ts)).unwrap_or(std::cmp::Ordering::Equal));
        let mut file = BufWriter::new(file);
        serde_json::to_writer_pretty(&mut file, &*events)
            .map_err(io::Error::from)
            .and_then(|()| file.write_all(b"\n"))
            .and_then(|()| file.flush())
            .map_err(|source| TraceError { path: path.clone(), source })
    }
}

/// Maps the guest's clock to the host's by one call: the middle of the call is the same moment on both sides.
#[derive(Clone, Copy, Debug)]
pub struct GuestClock {
    offset_ns: i128,
}

impl GuestClock {
    /// From when the call was sent and answered (host), received and replied to (guest).
    pub fn by_call(sent: u64, received: u64, replied: u64, answered: u64) -> Self {
        let (host, guest) = (i128::from(sent) + i128::from(answered), i128::from(received) + i128::from(replied));
        Self { offset_ns: (host - guest) / 2 }
    }

    /// A guest's time on the host's clock. The guest may have sent any number.
    pub fn host(&self, guest_ns: u64) -> u64 {
        (i128::from(guest_ns) + self.offset_ns).clamp(0, i128::from(u64::MAX)) as u64
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn file_is_an_array_of_events_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace.json");
        let trace = Trace::to_file(&path, 1_000_000).unwrap();
        trace.at(Lane::Guest, "agent up", 5_000_000);
        trace.span(Lane::Monitor, "VM", 2_000_000, 2_500_500);
        trace.span(Lane::Monitor, "backwards", 3_000_000, 1);
        trace.write().unwrap();
        let events: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let events = events.as_array().unwrap();
        for event in events {
            assert!(event["name"].is_string() && event["ts"].is_number(), "{event}");
            assert!(event["pid"].is_number() && event["tid"].is_number(), "{event}");
            assert!(["M", "X", "i"].contains(&event["ph"].as_str().unwrap()), "{event}");
            assert_eq!(event["dur"].is_number(), event["ph"] == "X", "{event}");
        }
        let rest: Vec<_> = events.iter().filter(|e| e["ph"] != "M").collect();
        let names: Vec<_> = rest.iter().map(|e| e["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["process start", "VM", "backwards", "agent up"]);
        assert_eq!(rest[1]["ts"], 1000.0);
        assert_eq!(rest[1]["dur"], 500.5);
        assert_eq!(rest[2]["dur"], 0.0);
        assert_eq!(rest[3]["ts"], 4000.0);
    }

    #[test]
    fn unwritable_place_is_an_error_at_once() {
        let text = Trace::to_file(Path::new("/nonexistent/trace"), 0).unwrap_err().to_string();
        assert_eq!(text, "SANDBOX_TRACE /nonexistent/trace: no such file or directory");
    }

    #[test]
    fn guest_times_map_to_the_host() {
        let clock = GuestClock::by_call(1_000, 50, 150, 1_200);
        assert_eq!(clock.host(50), 1_050);
        assert_eq!(clock.host(150), 1_150);
        assert_eq!(GuestClock::by_call(0, u64::MAX, u64::MAX, 10).host(7), 0);
        assert_eq!(GuestClock::by_call(u64::MAX, 0, 0, u64::MAX).host(u64::MAX), u64::MAX);
    }
}
