//! The hooks that run in the guest: the host sends those whose path is in the container's root.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use oci_spec::runtime::{Hook, Spec};

use super::process::c_strings;
use super::{Error, invalid};

/// One hook.
#[derive(Debug, PartialEq, Eq)]
pub struct HookPlan {
    /// When it runs, as config.json names it.
    pub phase: &'static str,
    /// Its place in the list, from 0.
    pub index: usize,
    /// In the container.
    pub path: CString,
    /// With its own name first.
    pub args: Vec<CString>,
    /// All that it gets, if not the environment of the container's process.
    pub env: Option<Vec<CString>>,
    /// After which it is killed.
    pub timeout: Option<Duration>,
}

/// By phase.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// In the container's namespaces, when its root is built and not yet entered.
    pub create_container: Vec<HookPlan>,
    /// In the container, right before its program.
    pub start_container: Vec<HookPlan>,
}

/// Checks them.
pub fn hooks(spec: &Spec) -> Result<Hooks, Error> {
    let Some(given) = spec.hooks() else { return Ok(Hooks::default()) };
    Ok(Hooks {
        create_container: phase("createContainer", given.create_container())?,
        start_container: phase("startContainer", given.start_container())?,
    })
}

fn phase(name: &'static str, hooks: &Option<Vec<Hook>>) -> Result<Vec<HookPlan>, Error> {
    hooks.iter().flatten().enumerate().map(|(index, hook)| plan(name, index, hook)).collect()
}

fn plan(phase: &'static str, index: usize, hook: &Hook) -> Result<HookPlan, Error> {
    let field = format!("hooks.{phase}[{index}]");
    if !hook.path().is_absolute() {
        return Err(invalid(format!("{field}.path"), "must be an absolute path"));
    }
    let path = CString::new(hook.path().as_os_str().as_bytes())
        .map_err(|_| invalid(format!("{field}.path"), "contains a zero byte"))?;
    let mut args = c_strings(&format!("{field}.args"), hook.args().as_deref().unwrap_or_default())?;
    if args.is_empty() {
        args.push(path.clone());
    }
    let env = hook.env().as_deref().map(|env| c_strings(&format!("{field}.env"), env)).transpose()?;
    let timeout = match hook.timeout().map(u64::try_from) {
        None => None,
        Some(Ok(seconds @ 1..)) => Some(Duration::from_secs(seconds)),
        Some(_) => return Err(invalid(format!("{field}.timeout"), "must be greater than zero")),
    };
    Ok(HookPlan { phase, index, path, args, env, timeout })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(hook: &str) -> Result<Hooks, String> {
        let json = format!(r#"{{"ociVersion":"1.2.0","hooks":{{"createContainer":[{hook}]}}}}"#);
        hooks(&serde_json::from_str(&json).unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn hooks_are_checked() {
        let hooks = read(r#"{"path":"/bin/a","timeout":5,"env":["A=b"]}"#).unwrap();
        let hook = &hooks.create_container[0];
        assert_eq!(
            (hook.args.as_slice(), hook.timeout),
            ([c"/bin/a".to_owned()].as_slice(), Some(Duration::from_secs(5)))
        );
        assert_eq!(hook.env.as_deref(), Some([c"A=b".to_owned()].as_slice()));
        assert!(hooks.start_container.is_empty());
        let env = |hook: &str| read(hook).unwrap().create_container.remove(0).env;
        assert_eq!((env(r#"{"path":"/a"}"#), env(r#"{"path":"/a","env":[]}"#)), (None, Some(Vec::new())));
        for (bad, field) in [
            (r#"{"path":"a"}"#, "hooks.createContainer[0].path"),
            (r#"{"path":"/a","timeout":0}"#, "hooks.createContainer[0].timeout"),
            (r#"{"path":"/a","timeout":-1}"#, "timeout"),
            (r#"{"path":"/a","args":["\u0000"]}"#, "hooks.createContainer[0].args[0]"),
        ] {
            assert!(read(bad).unwrap_err().contains(field), "{bad}");
        }
    }
}
