//! Who asks, and whom they mean: checked before any call is looked at.

use featureops_proto::peer::Caller;
use prost::Message;
use tonic::Status;
use tonic::metadata::{MetadataMap, MetadataValue};

use super::proof::PeerKey;
use super::{LEVEL_MIN, LEVEL_OF_PROOFS};
use crate::raft::Identity;

/// Name of the metadata that holds the caller.
pub const METADATA: &str = "featureops-peer-bin";

/// Writes the caller into a call's metadata.
pub fn write(caller: &Caller, metadata: &mut MetadataMap) {
    let mut value = MetadataValue::from_bytes(&caller.encode_to_vec());
    // A proof is for the one who is meant, not for whoever reads a log.
    value.set_sensitive(true);
    metadata.insert_bin(METADATA, value);
}

/// Who calls, by their word.
///
/// # Errors
/// The call does not say it, or not in its form.
pub fn read(metadata: &MetadataMap) -> Result<Caller, Status> {
    let value = metadata.get_bin(METADATA).and_then(|value| value.to_bytes().ok());
    let caller = value.and_then(|bytes| Caller::decode(bytes).ok());
    caller.ok_or_else(|| {
        Status::invalid_argument(format!(
            "the call has no `{METADATA}`: this port is for the nodes of a cluster; clients use the other one"
        ))
    })
}

/// What the call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Raft's own: only between nodes of one cluster that know each other.
    Raft,
    /// For the leader: only between nodes of one cluster.
    Write,
    /// Also before a node is in a cluster.
    Join,
}

/// The caller of a call to `own`, who holds `key`.
///
/// # Errors
/// It is refused: another cluster, an older protocol, somebody else is meant, or nothing proves who asks. The text says which,
/// and the way out.
pub fn check(
    metadata: &MetadataMap,
    own: &Identity,
    purpose: Purpose,
    key: Option<&PeerKey>,
) -> Result<Caller, Status> {
    let caller = read(metadata)?;
    let refuse = |why: String| Err(Status::failed_precondition(why));
    if caller.level < LEVEL_MIN {
        return refuse(format!(
            "node {} speaks level {} of the peer protocol, node {} needs {LEVEL_MIN} at least: update node {}",
            caller.node, caller.level, own.node, caller.node
        ));
    }
    if caller.cluster != own.cluster && caller.cluster != 0 && own.cluster != 0 {
        return refuse(format!(
            "node {} at this address belongs to cluster {:016x}, the calling node {} to cluster {:016x}: clusters do not \
             mix; give the node that shall join an empty data folder",
            own.node, own.cluster, caller.node, caller.cluster
        ));
    }
    if caller.node == own.node && caller.incarnation != own.incarnation {
        return refuse(format!(
            "node number {} is in use at this address, under incarnation {:016x}: start the calling node, {:016x}, under \
             another number",
            own.node, own.incarnation, caller.incarnation
        ));
    }
    if caller.to_node != 0 && caller.to_node != own.node {
        return refuse(format!(
            "node {} is meant, and node {} is at this address: correct the address by which one of them is advertised",
            caller.to_node, own.node
        ));
    }
    if caller.to_incarnation != 0 && caller.to_incarnation != own.incarnation {
        return refuse(format!(
            "node {} is a member under incarnation {:016x}, and this one is {:016x}: its data folder was emptied, so it \
             forgot what it voted and acknowledged; remove node {} from the cluster and let it join again",
            own.node, caller.to_incarnation, own.incarnation, own.node
        ));
    }
    let strangers = match purpose {
        // One that is in no cluster may be told of it, by somebody who means it and nobody else.
        Purpose::Raft => caller.cluster == 0 || (own.cluster == 0 && caller.to_incarnation == 0),
        Purpose::Write => caller.cluster == 0 || own.cluster == 0,
        Purpose::Join => false,
    };
    if strangers {
        return refuse(format!(
            "node {} and the calling node {} are not in one cluster yet",
            own.node, caller.node
        ));
    }
    if purpose != Purpose::Join
        && let Some(key) = key
        && !key.proves(&caller)
    {
        return refuse(unproven(&caller, own));
    }
    Ok(caller)
}

/// Why a call without a good proof is refused.
fn unproven(caller: &Caller, own: &Identity) -> String {
    let what = match (caller.proof.is_empty(), caller.level < LEVEL_OF_PROOFS) {
        (true, true) => {
            return format!(
                "node {} is of a release that proves nothing, and node {} asks for a proof: update node {}, and give it peer.key \
                 (mode 0600) of another member's data folder",
                caller.node, own.node, caller.node
            );
        }
        (true, false) => "shows no proof that it is a member: it has no peer.key",
        (false, _) => "shows a proof under another peer key than that of",
    };
    let whose = if caller.proof.is_empty() { String::new() } else { format!(" node {}", own.node) };
    format!(
        "node {} {what}{whose}; copy peer.key (mode 0600) from the data folder of node {} or of another member into that of node \
         {}, or let it join again with an empty folder",
        caller.node, own.node, caller.node
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Identity = Identity { cluster: 7, node: 2, incarnation: 20 };

    fn caller() -> Caller {
        Caller {
            cluster: 7,
            node: 1,
            incarnation: 10,
            level: 1,
            to_node: 2,
            to_incarnation: 20,
            ..Caller::default()
        }
    }

    fn checked(caller: &Caller, own: &Identity, purpose: Purpose) -> Result<Caller, String> {
        let mut metadata = MetadataMap::new();
        write(caller, &mut metadata);
        check(&metadata, own, purpose, None).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn whoever_is_of_another_cluster_or_level_or_means_somebody_else_is_refused_with_the_way_out() {
        assert_eq!(checked(&caller(), &OWN, Purpose::Raft), Ok(caller()));
        for (refused, part) in [
            (Caller { level: 0, ..caller() }, "update node 1"),
            (Caller { cluster: 8, ..caller() }, "clusters do not mix"),
            (Caller { node: 2, incarnation: 21, ..caller() }, "under another number"),
            (Caller { to_node: 3, ..caller() }, "node 3 is meant"),
            (Caller { to_incarnation: 19, ..caller() }, "remove node 2"),
        ] {
            for purpose in [Purpose::Raft, Purpose::Write, Purpose::Join] {
                let why = checked(&refused, &OWN, purpose).unwrap_err();
                assert!(why.contains(part), "{why}");
            }
        }
        let why = check(&MetadataMap::new(), &OWN, Purpose::Join, None).unwrap_err();
        assert!(why.message().contains("clients use the other one"));
    }

    #[test]
    fn a_node_in_no_cluster_is_asked_by_those_who_mean_it_and_asks_only_to_join() {
        let none = Identity { cluster: 0, ..OWN };
        assert!(checked(&caller(), &none, Purpose::Raft).is_ok());
        assert!(checked(&Caller { to_incarnation: 0, ..caller() }, &none, Purpose::Raft).is_err());
        assert!(checked(&caller(), &none, Purpose::Write).is_err());
        let stranger = Caller { cluster: 0, to_node: 0, to_incarnation: 0, ..caller() };
        assert!(checked(&stranger, &OWN, Purpose::Join).is_ok());
        assert!(checked(&stranger, &OWN, Purpose::Raft).is_err());
        assert!(checked(&stranger, &OWN, Purpose::Write).is_err());
    }

    #[test]
    fn whoever_holds_a_key_asks_for_a_proof_of_all_but_those_who_join() {
        let (key, other) = (PeerKey::new([1; 32]), PeerKey::new([2; 32]));
        let with = |key: &PeerKey, caller: Caller| Caller { proof: key.proof(&caller), ..caller };
        let checked = |caller: &Caller, own: &Identity, purpose| {
            let mut metadata = MetadataMap::new();
            write(caller, &mut metadata);
            check(&metadata, own, purpose, Some(&key)).map_err(|status| status.message().to_owned())
        };
        let caller = Caller { level: 2, ..caller() };
        let good = with(&key, caller.clone());
        for purpose in [Purpose::Raft, Purpose::Write] {
            assert_eq!(checked(&good, &OWN, purpose), Ok(good.clone()));
            for (refused, part) in [
                (caller.clone(), "shows no proof"),
                (Caller { level: 1, ..caller.clone() }, "update node 1"),
                (with(&other, caller.clone()), "under another peer key"),
                // Another node's proof, and one that was meant for another node.
                (Caller { node: 3, ..good.clone() }, "under another peer key"),
                (Caller { to_node: 0, to_incarnation: 0, ..good.clone() }, "under another peer key"),
            ] {
                let why = checked(&refused, &OWN, purpose).unwrap_err();
                assert!(why.contains(part) && (why.contains("peer.key") || part == "update node 1"), "{why}");
            }
        }
        assert!(checked(&caller, &OWN, Purpose::Join).is_ok());
        // One that was entrusted with the key and is in no cluster yet lets nobody else bring it into one.
        let none = Identity { cluster: 0, ..OWN };
        assert!(checked(&caller, &none, Purpose::Raft).is_err());
        assert!(checked(&good, &none, Purpose::Raft).is_ok());
    }
}
