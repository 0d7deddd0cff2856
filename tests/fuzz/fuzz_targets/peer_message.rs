//! What a peer sends and answers: read as each message, and as raft takes it; or a reason. Nothing of it panics.

#![no_main]

use featureops_cluster::Change;
use featureops_cluster::peer::wire;
use featureops_cluster::raft::record;
use featureops_proto::log::Batch;
use featureops_proto::peer::{
    AppendRequest, AppendResponse, ChangeRequest, EntrustRequest, IngestRequest, InstallRequest, TransferRequest,
    VoteRequest, VoteResponse,
};
use featureops_state::State;
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|input: &[u8]| {
    let _ = VoteRequest::decode(input).map(wire::raft_vote_request);
    let _ = VoteResponse::decode(input).map(wire::raft_vote_response);
    let _ = AppendRequest::decode(input).map(wire::raft_append_request);
    let _ = AppendResponse::decode(input).map(wire::raft_append_response);
    let _ = TransferRequest::decode(input).map(|request| wire::vote(request.from));
    let _ = ChangeRequest::decode(input).map(|request| Change::read(&request));
    let _ = EntrustRequest::decode(input);
    if let Ok(InstallRequest { begin: Some(begin), .. }) = InstallRequest::decode(input) {
        let _ = (wire::vote(begin.vote), record::decode_membership(&begin.membership));
    }
    if let Ok(request) = IngestRequest::decode(input) {
        let _ = request.batches.into_iter().map(Batch::decode).collect::<Result<Vec<_>, _>>();
    }
    let _ = record::decode_membership(input);
    // What is let through can be read in the log.
    if State::inspect(input).is_ok() {
        assert!(featureops_state::Command::decode(input).is_ok());
    }
});
