//! The size of a pod. Its first container, in whose micro-VM the others live, asks for nothing itself; Kubernetes' runtimes say in its
//! annotations what the containers to come may use together.

use oci_spec::runtime::Spec;
use serde::Deserialize;

use super::{CPU_PERIOD, MachineError};

/// containerd's: bytes.
const MEMORY: &str = "io.kubernetes.cri.sandbox-memory";
/// containerd's: microseconds.
const CPU_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
/// containerd's: microseconds.
const CPU_PERIOD_OF: &str = "io.kubernetes.cri.sandbox-cpu-period";
/// containerd's: 1024 for a CPU.
const CPU_SHARES: &str = "io.kubernetes.cri.sandbox-cpu-shares";
/// CRI-O's, by its name of today and by the one before: JSON.
const RESOURCES: [&str; 2] = ["pod-linux-resources.crio.io", "io.kubernetes.cri-o.PodLinuxResources"];
/// All of them.
pub const ANNOTATIONS: [&str; 6] = [MEMORY, CPU_QUOTA, CPU_PERIOD_OF, CPU_SHARES, RESOURCES[0], RESOURCES[1]];
/// What counts as a CPU.
const SHARES_OF_A_CPU: u64 = 1024;

/// LinuxContainerResources of the CRI, as far as they matter here. Zero means no limit, and so does what is below it.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Pod {
    memory_limit_in_bytes: i64,
    cpu_quota: i64,
    cpu_period: i64,
    cpu_shares: i64,
}

impl Pod {
    /// What the annotations say.
    pub fn of(spec: &Spec) -> Result<Self, MachineError> {
        let Some(annotations) = spec.annotations() else { return Ok(Self::default()) };
        for name in RESOURCES {
            if let Some(text) = annotations.get(name) {
                let read = serde_json::from_str::<Option<Self>>(text).map(Option::unwrap_or_default);
                return read.map_err(|error| MachineError::Resources { name, message: error.to_string() });
            }
        }
        let number = |name| match annotations.get(name).map(|value| value.parse::<i64>()) {
            None => Ok(0),
            Some(Ok(number)) => Ok(number),
            Some(Err(_)) => {
                let value = annotations.get(name).cloned().unwrap_or_default();
                Err(MachineError::Annotation { name, value, least: 0, most: i64::MAX.unsigned_abs() })
            }
        };
        Ok(Self {
            memory_limit_in_bytes: number(MEMORY)?,
            cpu_quota: number(CPU_QUOTA)?,
            cpu_period: number(CPU_PERIOD_OF)?,
            cpu_shares: number(CPU_SHARES)?,
        })
    }

    /// The limit for memory.
    pub fn memory(&self) -> Option<i64> {
        some(self.memory_limit_in_bytes).and(Some(self.memory_limit_in_bytes))
    }

    /// How many CPUs the limit lets it use.
    pub fn cpus(&self) -> Option<u64> {
        some(self.cpu_quota).map(|quota| quota.div_ceil(some(self.cpu_period).unwrap_or(CPU_PERIOD)))
    }

    /// How many CPUs it is to have at least, where there is no limit: what its containers request.
    pub fn requested_cpus(&self) -> Option<u64> {
        some(self.cpu_shares).map(|shares| shares.div_ceil(SHARES_OF_A_CPU))
    }
}

fn some(number: i64) -> Option<u64> {
    u64::try_from(number).ok().filter(|number| *number > 0)
}
