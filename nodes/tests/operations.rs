//! Backups, levels and the doctor over gRPC: what a stream holds, who may have it, what is refused, and what is noted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod world;

use featureops::backup::Sum;
use featureops::backup::file::{check, peek};
use featureops::rpc::backup_service_client::BackupServiceClient;
use featureops::rpc::upgrade_service_client::UpgradeServiceClient;
use featureops_cluster::Fold;
use featureops_proto::v1::backup_frame::Frame;
use featureops_proto::v1::{
    BackupRecord, GetNodeHealthRequest, GetUpgradePlanRequest, RaiseLevelRequest, RecordBackupRequest,
    StreamBackupRequest,
};
use featureops_state::{FEATURE_LEVEL, State};
use proptest::prelude::*;
use prost::Message as _;
use tonic::Code;
use tonic_types::StatusExt as _;
use world::World;

async fn frames(world: &World, request: StreamBackupRequest) -> Vec<Frame> {
    let mut client = BackupServiceClient::new(world.channel.clone());
    let mut stream = client.stream_backup(request).await.unwrap().into_inner();
    let (mut all, mut sum) = (Vec::new(), Sum::default());
    while let Some(frame) = stream.message().await.unwrap() {
        if let Some(Frame::Tail(tail)) = &frame.frame {
            assert_eq!(tail.sha256, std::mem::take(&mut sum).finish());
        }
        sum.add(&frame.encode_to_vec());
        all.push(frame.frame.unwrap());
    }
    all
}

#[tokio::test]
async fn a_stream_is_the_state_at_its_position_and_the_key_comes_only_when_asked_for() {
    let world = World::start().await;
    world.run_experiment().await;
    let frames_without =
        frames(&world, StreamBackupRequest { local: true, ..StreamBackupRequest::default() }).await;
    assert!(!frames_without.iter().any(|frame| matches!(frame, Frame::UnitKey(_))));
    let all = frames(&world, StreamBackupRequest { with_unit_key: true, local: false }).await;
    let Frame::Head(head) = &all[0] else { panic!("no head") };
    let Frame::Tail(tail) = all.last().unwrap() else { panic!("no tail") };
    let state: Vec<u8> = all
        .iter()
        .filter_map(|frame| match frame {
            Frame::Piece(piece) => Some(piece.clone()),
            _ => None,
        })
        .flatten()
        .collect();
    let state = <State as Fold>::decode(&state).unwrap();
    assert_eq!((state.position(), state.digest()), (head.position, tail.digest));
    assert_eq!(<State as Fold>::encode(&state).len() as u64, tail.bytes);
    assert_eq!(Fold::feature_level(&state), head.feature_level);
    assert!(all.iter().any(|frame| matches!(frame, Frame::UnitKey(key) if key.len() == 16)));
    assert!(head.has_unit_key && head.cluster == state.cluster());
}

#[tokio::test]
async fn an_agent_neither_takes_a_backup_nor_raises_the_level() {
    let world = World::start().await;
    let mut asked = tonic::Request::new(StreamBackupRequest { with_unit_key: true, local: true });
    asked.metadata_mut().insert("featureops-principal", "agent:tuner".parse().unwrap());
    let refused = BackupServiceClient::new(world.channel.clone()).stream_backup(asked).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "NOT_PERMITTED", "{refused}");
    assert!(refused.message().contains("act as human:<id>"), "{}", refused.message());
    let request = RaiseLevelRequest { feature_level: FEATURE_LEVEL, ..RaiseLevelRequest::default() };
    let mut asked = tonic::Request::new(request.clone());
    asked.metadata_mut().insert("featureops-principal", "agent:tuner".parse().unwrap());
    let mut client = UpgradeServiceClient::new(world.channel.clone());
    let refused = client.raise_level(asked).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "NOT_PERMITTED", "{refused}");
    client.raise_level(request).await.unwrap();
}

#[tokio::test]
async fn a_backup_is_noted_once_and_the_doctor_knows_of_it() {
    let world = World::start().await;
    let mut client = BackupServiceClient::new(world.channel.clone());
    let backup = BackupRecord { position: 1, bytes: 99, sha256: vec![1; 32], ..BackupRecord::default() };
    let request = |validate_only, sha256: Vec<u8>| RecordBackupRequest {
        backup: Some(BackupRecord { sha256, ..backup.clone() }),
        request_id: "note-1".to_owned(),
        validate_only,
    };
    let detail = async |name: &str| {
        let health =
            world.administration().get_node_health(GetNodeHealthRequest {}).await.unwrap().into_inner();
        let check =
            health.checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no {name}"));
        assert!(check.ok, "{check:?}");
        check.detail.clone()
    };
    assert!(detail("backup").await.contains("none was noted"));
    assert!(detail("disk sync").await.contains("durable after"));
    assert!(detail("stored snapshot").await.contains("entries"));
    assert_eq!(detail("feature level").await, FEATURE_LEVEL.to_string());
    client.record_backup(request(true, vec![1; 32])).await.unwrap();
    assert!(detail("backup").await.contains("none was noted"), "a rehearsal changes nothing");
    let noted = client.record_backup(request(false, vec![1; 32])).await.unwrap().into_inner();
    assert!(noted.record_time.is_some() && noted.recorded_by.is_some());
    client.record_backup(request(false, vec![1; 32])).await.unwrap();
    let other = client.record_backup(request(false, vec![2; 32])).await.unwrap_err();
    assert_eq!(other.get_details_error_info().unwrap().reason, "CONTENT_MISMATCH");
    assert!(detail("backup").await.contains("0 days old: position 1, 99 bytes"));
    let none = client.record_backup(RecordBackupRequest::default()).await.unwrap_err();
    assert_eq!(none.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_level_is_raised_by_what_the_members_say() {
    let world = World::start_set(|config| config.feature_level_max = Some(1)).await;
    let mut client = UpgradeServiceClient::new(world.channel.clone());
    let plan = client.get_upgrade_plan(GetUpgradePlanRequest {}).await.unwrap().into_inner();
    assert_eq!((plan.feature_level, plan.feature_level_max, plan.members.len()), (1, 1, 1));
    assert!(plan.steps.is_empty() && plan.levels.len() >= 2, "{plan:?}");
    let raise = |feature_level| RaiseLevelRequest { feature_level, ..RaiseLevelRequest::default() };
    let refused = client.raise_level(raise(2)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("node 1 "), "{}", refused.message());
    assert_eq!(client.raise_level(raise(0)).await.unwrap_err().code(), Code::InvalidArgument);
    let backup = BackupRecord { position: 1, sha256: vec![1; 32], ..BackupRecord::default() };
    let early = RecordBackupRequest { backup: Some(backup), ..RecordBackupRequest::default() };
    let refused = BackupServiceClient::new(world.channel.clone()).record_backup(early).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "FEATURE_LEVEL_TOO_LOW");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    // A new cluster of this build is at its highest level.
    let world = World::start().await;
    let mut client = UpgradeServiceClient::new(world.channel.clone());
    let plan = client.get_upgrade_plan(GetUpgradePlanRequest {}).await.unwrap().into_inner();
    assert_eq!((plan.feature_level, plan.feature_level_max), (FEATURE_LEVEL, FEATURE_LEVEL));
    let again = client.raise_level(raise(FEATURE_LEVEL)).await.unwrap().into_inner();
    assert_eq!(again.feature_level, FEATURE_LEVEL);
}

/// Bytes as a file would hold them around a frame: the readers come as far as the frame itself.
fn framed(bytes: &[u8], length: u32) -> Vec<u8> {
    let checksum = featureops_cluster::crc32(bytes);
    let mut file = b"fobackup".to_vec();
    file.extend_from_slice(&length.to_be_bytes());
    file.extend_from_slice(&checksum.to_be_bytes());
    file.extend_from_slice(bytes);
    let tail_at = file.len() as u64;
    file.extend_from_slice(&tail_at.to_be_bytes());
    file.extend_from_slice(b"fobackup");
    file
}

proptest! {
    #[test]
    fn any_bytes_are_no_backup_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), lie in any::<u32>()) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let honest = bytes.len() as u32;
        for content in [bytes.clone(), framed(&bytes, honest), framed(&bytes, lie)] {
            std::fs::write(file.path(), content).unwrap();
            prop_assert!(check(file.path(), &mut |_| Ok(())).is_err());
            prop_assert!(peek(file.path()).is_err());
        }
    }
}
