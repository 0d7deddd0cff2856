//! Who calls: the principal a request names itself by, unverified, while there is no token; then the token is who.

use featureops_proto::v1::{Principal, principal::Kind};
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::refusal;

/// The metadata entry by which a caller names itself.
pub const HEADER: &str = "featureops-principal";
/// Whom an alarm by webhook comes from when it does not say: a monitor, never a person.
pub const WEBHOOK: &str = "agent:webhook";
/// Longest id of a principal, in bytes.
pub const ID_BYTES_MAX: usize = 128;

/// The principal of a request: `human:ID` or `agent:ID`; without the entry `human:local`.
///
/// `system` is the node's own and nobody may claim it.
///
/// # Errors
/// The entry has another form.
pub fn principal(metadata: &MetadataMap) -> Result<Principal, Status> {
    let mut named_as = metadata.get_all(HEADER).iter();
    let Some(value) = named_as.next() else {
        return Ok(Principal { kind: Kind::Human.into(), id: "local".to_owned(), verified: false });
    };
    if named_as.next().is_some() {
        return Err(refusal::invalid(HEADER, "", "is there more than once: a caller is one"));
    }
    let text = value
        .to_str()
        .map_err(|_| refusal::invalid(HEADER, "", "must be ASCII of the form human:ID or agent:ID"))?;
    named(text)
}

/// The principal of its text.
///
/// # Errors
/// The text has another form.
pub fn named(text: &str) -> Result<Principal, Status> {
    let kind = match text.split_once(':') {
        Some(("human", _)) => Kind::Human,
        Some(("agent", _)) => Kind::Agent,
        _ => return Err(refusal::invalid(HEADER, text, "must have the form human:ID or agent:ID")),
    };
    let id = text.split_once(':').map(|(_, id)| id).unwrap_or_default();
    if id.is_empty() || id.len() > ID_BYTES_MAX || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refusal::invalid(
            HEADER,
            text,
            format!("must have an id of 1 to {ID_BYTES_MAX} printable ASCII characters after the colon"),
        ));
    }
    Ok(Principal { kind: kind.into(), id: id.to_owned(), verified: false })
}

/// The node itself.
#[must_use]
pub fn system(id: &str) -> Principal {
    Principal { kind: Kind::System.into(), id: id.to_owned(), verified: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_names_itself_or_is_the_local_human() {
        let mut metadata = MetadataMap::new();
        assert_eq!(principal(&metadata).unwrap().id, "local");
        metadata.insert(HEADER, "agent:tuner@1".parse().unwrap());
        let named = principal(&metadata).unwrap();
        assert_eq!((named.kind(), named.id.as_str(), named.verified), (Kind::Agent, "tuner@1", false));
    }

    #[test]
    fn a_caller_is_one() {
        let mut metadata = MetadataMap::new();
        for text in ["agent:a", "human:b"] {
            metadata.append(HEADER, text.parse().unwrap());
        }
        assert!(principal(&metadata).unwrap_err().message().contains("more than once"));
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "human",
            "human:",
            "system:featureops",
            "robot:x",
            "human:a b",
            &format!("human:{}", "x".repeat(129)),
        ] {
            assert_eq!(named(text).unwrap_err().code(), tonic::Code::InvalidArgument, "{text}");
        }
    }
}
