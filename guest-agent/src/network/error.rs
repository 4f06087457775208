//! Why a container does not have the network that it should.

use std::io;

use agent_protocol::Plain;

/// A network that could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request that means nothing.
    #[error("network: {field}: {problem}")]
    Invalid {
        /// As in the request.
        field: String,
        /// One clause.
        problem: &'static str,
    },
    /// The kernel said no.
    #[error("cannot {step}: {}", Plain(source))]
    Step {
        /// A verb and its object.
        step: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    /// Of a field.
    pub fn invalid(field: impl Into<String>, problem: &'static str) -> Error {
        Error::Invalid { field: field.into(), problem }
    }

    /// The field is one of a list's entry.
    pub fn at(self, list: &str, index: usize) -> Error {
        match self {
            Error::Invalid { field, problem } => Error::Invalid { field: format!("{list}[{index}].{field}"), problem },
            other => other,
        }
    }
}
