//! How large the micro-VM of a container is.

mod pod;

use std::num::NonZero;

use oci_spec::runtime::Spec;

use crate::error::shown;
use crate::settings::{CachePolicy, Settings};
pub use pod::ANNOTATIONS as POD_ANNOTATIONS;
use pod::Pod;

/// Annotation: guest memory in MiB.
pub const MEMORY_ANNOTATION: &str = "io.sandbox.memory_mib";
/// What annotations for this runtime begin with.
const OWN_ANNOTATIONS: &str = "io.sandbox.";
/// Of a name that means nothing, as much is shown.
const SHOWN: usize = 200;
/// Annotation: number of virtual CPUs.
pub const VCPUS_ANNOTATION: &str = "io.sandbox.vcpus";

/// Less than this, and the guest's kernel and agent have no room to start.
pub const MINIMUM_MEMORY_MIB: u64 = 64;
/// What the guest's kernel and agent get beside the container's limit, so that an exhausted limit is the container's and
/// never the guest's: about 40 MiB that they use, and up to 22 that the kernel keeps free (`min_free_kbytes`).
const GUEST_FIXED_MIB: u64 = 64;
/// And of so many parts of the guest's memory one, for what takes a part of all: a 64th for page structures (64 bytes for 4 KiB), some
/// 700th for the tables of names and inodes, and a 256th of what is above 4 GiB, which the kernel keeps free below that
/// (`lowmem_reserve_ratio`), as it does 22 MiB more. With some to spare: memory that the guest does not touch costs nothing.
const GUEST_PARTS: u64 = 40;

/// Microseconds over which cpu.quota counts where there is no cpu.period (the kernel's default).
const CPU_PERIOD: u64 = 100_000;

/// Why the micro-VM would have no possible size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MachineError {
    /// An annotation is no number, or one out of range.
    #[error("annotation {name} is {value:?}: give a whole number from {least} to {most}")]
    Annotation {
        /// Which.
        name: &'static str,
        /// What it says.
        value: String,
        /// The least that is possible.
        least: u64,
        /// The most that is possible.
        most: u64,
    },
    /// Memory below [`MINIMUM_MEMORY_MIB`].
    #[error(
        "annotation {MEMORY_ANNOTATION} asks for {0} MiB, less memory than the guest needs: give {MINIMUM_MEMORY_MIB} or more"
    )]
    TooLittleMemory(u64),
    /// An annotation of CRI-O's is no JSON, or of another kind.
    #[error("annotation {name}, the resources of a pod as JSON, cannot be read: {message}")]
    Resources {
        /// Which.
        name: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// An annotation that the administrator does not let override anything.
    #[error("annotation {0} is not allowed on this machine: annotations.allowed in the settings does not name it")]
    NotAllowed(&'static str),
}

/// The size of a micro-VM, and what it may cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Guest memory at the start.
    pub memory_mib: u64,
    /// What it may grow to, if the container's limit and the host let it.
    pub memory_most_mib: u64,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// What the guest may cache of the shared files.
    pub cache: CachePolicy,
}

/// One TiB: more than one guest's memory map and any sensible request.
pub const MOST_MEMORY_MIB: u64 = 1 << 20;
/// As many as the guest's CPU table holds.
pub const MOST_VCPUS: u8 = vmm::boot::MAX_VCPUS;

impl Machine {
    /// The size that a configuration asks for, with the built-in settings.
    pub fn of(spec: &Spec) -> Result<Self, MachineError> {
        Self::configured(spec, &Settings::default())
    }

    /// The size that a configuration asks for, as far as the settings let it.
    pub fn configured(spec: &Spec, settings: &Settings) -> Result<Self, MachineError> {
        warn_of_others(spec);
        let allowed = &settings.annotations.allowed;
        let pod = Pod::of(spec)?;
        let asked = annotation(spec, allowed, MEMORY_ANNOTATION, 0, MOST_MEMORY_MIB)?;
        let memory_mib = match asked {
            Some(mib) if mib < MINIMUM_MEMORY_MIB => return Err(MachineError::TooLittleMemory(mib)),
            Some(mib) => mib,
            None => {
                memory_limit(spec).or(pod.memory()).and_then(mib).map_or(settings.defaults.memory_mib, with_the_guests)
            }
        };
        // A size that somebody has given is meant; and the pod's cgroup on the host, which is not this container's, bounds a pod.
        let fixed = asked.is_some() || (memory_limit(spec).is_none() && pod.memory().is_some());
        let memory_most_mib = if fixed { memory_mib } else { settings.most_memory_mib().max(memory_mib) };
        let vcpus = annotation(spec, allowed, VCPUS_ANNOTATION, 1, u64::from(MOST_VCPUS))?;
        let vcpus = vcpus.and_then(|vcpus| u8::try_from(vcpus).ok());
        let host_cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
        let requested = || pod.requested_cpus().map(|cpus| at_once(cpus, host_cpus).max(settings.defaults.vcpus));
        let vcpus = vcpus
            .or_else(|| vcpus_of_limits(spec, host_cpus))
            .or_else(|| pod.cpus().map(|cpus| at_once(cpus, host_cpus)))
            .or_else(requested)
            .unwrap_or(settings.defaults.vcpus);
        Ok(Self { memory_mib, memory_most_mib, vcpus, cache: settings.share.cache })
    }
}

/// A size that is misspelt is none.
fn warn_of_others(spec: &Spec) {
    let known =
        |name: &str| [MEMORY_ANNOTATION, VCPUS_ANNOTATION].contains(&name) || !name.starts_with(OWN_ANNOTATIONS);
    for (name, _) in spec.annotations().iter().flatten().filter(|(name, _)| !known(name)) {
        let name: String = shown(name).chars().take(SHOWN).collect();
        log::warn!("annotation {name} is ignored: there are {MEMORY_ANNOTATION} and {VCPUS_ANNOTATION}");
    }
}

/// linux.resources.memory.limit. 0 and negative numbers mean none.
fn memory_limit(spec: &Spec) -> Option<i64> {
    spec.linux().as_ref()?.resources().as_ref()?.memory().as_ref()?.limit().filter(|limit| *limit > 0)
}

/// Rounded up.
fn mib(bytes: i64) -> Option<u64> {
    u64::try_from(bytes).ok().map(|bytes| bytes.div_ceil(1 << 20))
}

/// The memory of a guest in which a container can use `limit` MiB.
fn with_the_guests(limit: u64) -> u64 {
    let other_parts = limit.saturating_add(GUEST_FIXED_MIB).min(MOST_MEMORY_MIB);
    (other_parts * GUEST_PARTS).div_ceil(GUEST_PARTS - 1).min(MOST_MEMORY_MIB)
}

/// As many virtual CPUs as the container's limits let it use at once, and the host has; nothing where there are none.
fn vcpus_of_limits(spec: &Spec, host_cpus: usize) -> Option<u8> {
    let cpu = spec.linux().as_ref()?.resources().as_ref()?.cpu().as_ref()?;
    let quota = cpu.quota().and_then(|quota| u64::try_from(quota).ok()).filter(|quota| *quota > 0);
    let period = cpu.period().filter(|period| *period > 0).unwrap_or(CPU_PERIOD);
    let by_time = quota.map(|quota| quota.div_ceil(period));
    let by_set = cpu.cpus().as_deref().filter(|cpus| !cpus.trim().is_empty()).map(count_cpus);
    Some(at_once([by_time, by_set].into_iter().flatten().min()?, host_cpus))
}

/// As many of `vcpus` as are possible, and one at least.
fn at_once(vcpus: u64, host_cpus: usize) -> u8 {
    let most = u64::try_from(host_cpus).unwrap_or(u64::MAX).min(MOST_VCPUS.into()).max(1);
    u8::try_from(vcpus.clamp(1, most)).unwrap_or(1)
}

/// How many a list such as `0-3,5` names. What is wrong with it is said elsewhere.
fn count_cpus(list: &str) -> u64 {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.trim().parse::<u64>().ok()?, last.trim().parse::<u64>().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.split(',').filter_map(count).fold(0, u64::saturating_add)
}

fn annotation(
    spec: &Spec,
    allowed: &[String],
    name: &'static str,
    least: u64,
    most: u64,
) -> Result<Option<u64>, MachineError> {
    let Some(value) = spec.annotations().as_ref().and_then(|all| all.get(name)) else {
        return Ok(None);
    };
    if !allowed.iter().any(|allowed| allowed == name) {
        return Err(MachineError::NotAllowed(name));
    }
    match value.parse::<u64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
        _ => Err(MachineError::Annotation { name, value: value.clone(), least, most }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn machine(limit: Value, annotations: Value) -> Result<Machine, MachineError> {
        let config = json!({
            "ociVersion": "1.0.2",
            "annotations": annotations,
            "linux": {"resources": {"memory": {"limit": limit}}}
        });
        Machine::of(&serde_json::from_value(config).unwrap())
    }

    #[test]
    fn memory_follows_the_limit() {
        let memory = |limit: Value| machine(limit, Value::Null).unwrap().memory_mib;
        assert_eq!(memory(Value::Null), 512);
        assert_eq!(memory(json!(-1)), 512);
        assert_eq!(memory(json!(0)), 512);
        assert_eq!(memory(json!(6 << 20)), 72);
        assert_eq!(memory(json!((6 << 20) + 1)), 73);
        assert_eq!(memory(json!(i64::MAX)), MOST_MEMORY_MIB);
    }

    #[test]
    fn what_the_guests_kernel_keeps_is_not_the_containers() {
        for limit in [6, 256, 512, 3 << 10, 4 << 10, 16 << 10, 64 << 10, 900 << 10] {
            let guest = machine(json!(limit << 20), Value::Null).unwrap().memory_mib;
            let high = guest.saturating_sub(vmm::layout::LOW_MEMORY_END >> 20);
            let structures = guest / 64 + guest / 1024 + guest / 2048;
            let free = if high > 0 { 44 + high / 256 } else { 22 };
            assert!(guest >= limit + 40 + structures + free, "{limit}: {guest}");
            assert!(guest <= limit + 64 + guest / 39 + 1, "{limit}: {guest}");
        }
    }

    #[test]
    fn a_size_that_was_given_stays() {
        let sizes = |limit: Value, annotations: Value| {
            machine(limit, annotations).map(|machine| (machine.memory_mib, machine.memory_most_mib))
        };
        let host = crate::sys::host_memory() >> 20;
        assert_eq!(sizes(Value::Null, Value::Null), Ok((512, host.clamp(512, MOST_MEMORY_MIB))));
        // Its limit can be raised later.
        assert_eq!(sizes(json!(6 << 20), Value::Null), Ok((72, host.clamp(72, MOST_MEMORY_MIB))));
        assert_eq!(sizes(json!(i64::MAX), Value::Null), Ok((MOST_MEMORY_MIB, MOST_MEMORY_MIB)));
        assert_eq!(sizes(Value::Null, json!({"io.sandbox.memory_mib": "256"})), Ok((256, 256)));
        assert_eq!(sizes(Value::Null, json!({"io.kubernetes.cri.sandbox-memory": "268435456"})), Ok((329, 329)));
    }

    #[test]
    fn annotations_override() {
        let size = |annotations| machine(json!(1 << 30), annotations);
        assert_eq!(
            size(json!({"io.sandbox.memory_mib": "128", "io.sandbox.vcpus": "4"})),
            Ok(Machine { memory_mib: 128, memory_most_mib: 128, vcpus: 4, cache: CachePolicy::Always })
        );
        let error = size(json!({"io.sandbox.memory_mib": "63"})).unwrap_err();
        assert_eq!(error, MachineError::TooLittleMemory(63));
        assert!(error.to_string().contains("less memory than the guest needs"));
        for (name, value) in
            [("memory_mib", "-5"), ("memory_mib", "1G"), ("vcpus", "0"), ("vcpus", "256"), ("vcpus", "")]
        {
            let name = format!("io.sandbox.{name}");
            let text = size(json!({&name: value})).unwrap_err().to_string();
            assert!(text.starts_with(&format!("annotation {name} is {value:?}: give a whole number")), "{text}");
        }
    }
    #[test]
    fn vcpus_follow_the_limits() {
        let vcpus = |cpu: Value| {
            let config = json!({"ociVersion": "1.0.2", "linux": {"resources": {"cpu": cpu}}});
            vcpus_of_limits(&serde_json::from_value(config).unwrap(), 4)
        };
        assert_eq!(vcpus(json!({})), None);
        assert_eq!(vcpus(json!({"quota": -1, "shares": 5})), None);
        assert_eq!(vcpus(json!({"quota": 50_000})), Some(1));
        assert_eq!(vcpus(json!({"quota": 150_000, "period": 100_000})), Some(2));
        assert_eq!(vcpus(json!({"quota": i64::MAX, "period": 1_000})), Some(4));
        assert_eq!(vcpus(json!({"cpus": "0-1,7"})), Some(3));
        assert_eq!(vcpus(json!({"cpus": "0-1,7", "quota": 200_000})), Some(2));
        assert_eq!(vcpus(json!({"cpus": "5-4,x"})), Some(1));
    }

    #[test]
    fn a_pods_size_is_in_its_annotations() {
        let host_cpus = u64::try_from(std::thread::available_parallelism().unwrap().get()).unwrap();
        let size = |annotations: Value, memory: Value| {
            let config =
                json!({"ociVersion": "1.0.2", "annotations": annotations, "linux": {"resources": {"memory": memory}}});
            Machine::of(&serde_json::from_value(config).unwrap()).map(|machine| (machine.memory_mib, machine.vcpus))
        };
        let cri = |name: &str| format!("io.kubernetes.cri.sandbox-{name}");
        let many = u8::try_from(host_cpus.min(MOST_VCPUS.into())).unwrap();
        let two = many.min(2);
        let given = json!({cri("memory"): "1073741824", cri("cpu-quota"): "150000", cri("cpu-period"): "100000", cri("cpu-shares"): "2"});
        assert_eq!(size(given.clone(), Value::Null), Ok((1116, two)));
        // The container's own is what counts.
        assert_eq!(size(given, json!({"limit": 1 << 28})), Ok((329, two)));
        // Nothing is limited, and something requested.
        let given = json!({cri("memory"): "0", cri("cpu-quota"): "0", cri("cpu-shares"): "1025"});
        assert_eq!(size(given, Value::Null), Ok((512, two)));
        let given =
            json!({cri("memory"): "-1", cri("cpu-quota"): "-1", cri("cpu-period"): "0", cri("cpu-shares"): "102"});
        assert_eq!(size(given, Value::Null), Ok((512, 1)));
        let given = json!({cri("memory"): i64::MAX.to_string(), cri("cpu-quota"): i64::MAX.to_string()});
        assert_eq!(size(given, Value::Null), Ok((MOST_MEMORY_MIB, many)));
        for name in ["pod-linux-resources.crio.io", "io.kubernetes.cri-o.PodLinuxResources"] {
            let text =
                r#"{"cpu_period":100000,"cpu_quota":200000,"memory_limit_in_bytes":268435456,"oom_score_adj":5}"#;
            assert_eq!(size(json!({name: text}), Value::Null), Ok((329, two)));
            assert_eq!(size(json!({name: "null"}), Value::Null), Ok((512, 1)));
            assert_eq!(size(json!({name: "{}"}), Value::Null), Ok((512, 1)));
            let text = size(json!({name: "wrong"}), Value::Null).unwrap_err().to_string();
            assert!(text.starts_with(&format!("annotation {name}, the resources of a pod as JSON")), "{text}");
        }
        let text = size(json!({cri("memory"): "1Gi"}), Value::Null).unwrap_err().to_string();
        assert!(text.starts_with("annotation io.kubernetes.cri.sandbox-memory is \"1Gi\""), "{text}");
    }

    #[test]
    fn settings_are_the_defaults_and_the_bounds() {
        let mut settings = Settings::default();
        settings.defaults.vcpus = 3;
        settings.defaults.memory_mib = 1024;
        settings.defaults.memory_max_mib = 4096;
        settings.share.cache = CachePolicy::Never;
        settings.annotations.allowed = vec![VCPUS_ANNOTATION.to_string()];
        let spec = |annotations: Value| {
            serde_json::from_value::<Spec>(json!({"ociVersion": "1.0.2", "annotations": annotations})).unwrap()
        };
        let machine = |annotations| Machine::configured(&spec(annotations), &settings);
        let expected = Machine { memory_mib: 1024, memory_most_mib: 4096, vcpus: 3, cache: CachePolicy::Never };
        assert_eq!(machine(json!({})), Ok(expected));
        assert_eq!(machine(json!({"io.sandbox.vcpus": "2"})).unwrap().vcpus, 2);
        let text = machine(json!({"io.sandbox.memory_mib": "512"})).unwrap_err().to_string();
        assert!(text.starts_with("annotation io.sandbox.memory_mib is not allowed on this machine"), "{text}");
    }
}
