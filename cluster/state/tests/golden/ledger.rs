//! Series, samples and erasures: what is proposed and answered, and how a snapshot holds them.

use featureops_proto::log::{
    self, Done, Entry, ErasuresRecord, Reply, SampleRecord, SampledRecord, SampledStayRecord,
    SeriesCellRecord, SeriesRecord, SeriesUnitsRecord, TupleRecord, UnitErased, entry, reply,
};
use featureops_proto::v1;
use featureops_state::{Command, State};

use crate::driver::{Driver, batch};
use crate::{Golden, text};

fn entries() -> Vec<(&'static str, entry::Command)> {
    use entry::Command as C;
    let dimensions = || vec![text("country"), text("plan")];
    let experiment = v1::Experiment {
        name: text("environments/production/experiments/checkout-button"),
        flag: text("checkout"),
        dimensions: dimensions(),
        ..v1::Experiment::default()
    };
    let exposure = log::ExposureFact {
        experiment: 3,
        arm: 1,
        unit_hash: 0xabcd,
        minute: 29_671_200,
        dimensions: vec![text("DE"), String::new()],
        ..log::ExposureFact::default()
    };
    let batch = log::Batch {
        environment: text("production"),
        producer: text("web-1"),
        sequence: 42,
        exposures: vec![exposure],
        ..log::Batch::default()
    };
    vec![
        ("create_experiment", C::CreateExperiment(log::CreateExperiment { experiment: Some(experiment) })),
        ("ingest", C::Ingest(log::Ingest { batches: vec![batch] })),
        (
            "erase_unit",
            C::EraseUnit(log::EraseUnit {
                parent: text("environments/-"),
                unit_key_id: 7,
                unit_hash: 0xfeed_beef,
            }),
        ),
    ]
}

fn erased() -> Reply {
    let erased = UnitErased {
        experiments: 3,
        stays: 4,
        sums: 5,
        marks: 1,
        sampled: 2,
        waiting: 6,
        segments: 7,
        position: 1_000,
    };
    let done =
        Done { name: text("environments/-"), took_effect: true, erased: Some(erased), ..Done::default() };
    Reply { result: Some(reply::Result::Done(done)) }
}

fn series() -> SeriesRecord {
    SeriesRecord {
        width_minutes: 60,
        start_minute: 29_671_200,
        units: vec![SeriesUnitsRecord { arm: 1, fresh: 10, late: 2 }],
        cells: vec![SeriesCellRecord {
            arm: 1,
            slot: 2,
            events: 9,
            sum: Some(v1::Int128::new(-5)),
            squares: Some(v1::Int128::new(1 << 70)),
            converted: 3,
            late: 4,
        }],
    }
}

fn sample() -> SampleRecord {
    let tuple = TupleRecord { index: 4_095, values: vec![text("DE"), String::new()] };
    SampleRecord { level: 3, thinned: 70_000, dictionary: vec![tuple] }
}

fn sampled() -> SampledRecord {
    SampledRecord {
        unit: 0xabcd,
        tuple: 4_097,
        stay: Some(SampledStayRecord { arm: 1, sums: vec![1, -250] }),
        first: Some(SampledStayRecord { arm: 0, sums: vec![0, 1 << 40] }),
    }
}

#[test]
fn every_message_reads_and_writes_its_golden_bytes() {
    let mut golden = Golden::open("ledger");
    for (name, command) in entries() {
        let bytes = golden.keeps(name, &Entry { command: Some(command.clone()), ..Entry::default() });
        assert_eq!(Command::decode(&bytes).unwrap().kind, command, "{name}: meaning changed");
    }
    golden.keeps("erased", &erased());
    golden.keeps("erasures", &ErasuresRecord { count: 3, position: 1_000, time_ms: 1_780_272_060_000 });
    golden.keeps("series", &series());
    golden.keeps("sample", &sample());
    golden.keeps("sampled", &sampled());
    golden.has_nothing_else();
}

/// They stand in sections of their own, so that states without them keep theirs.
#[test]
fn a_state_with_them_is_read_and_written_again_as_its_golden_bytes() {
    let mut driver = Driver::new();
    driver.furnish();
    let arms = ["off", "on"].map(|variant| v1::Arm { variant: text(variant), established: true });
    let experiment = v1::Experiment {
        name: text("environments/production/experiments/e"),
        flag: text("checkout"),
        arms: arms.to_vec(),
        primary_metric: text("conversion"),
        secondary_metrics: vec![text("revenue")],
        dimensions: vec![text("country")],
        ..v1::Experiment::default()
    };
    driver.done(entry::Command::CreateExperiment(log::CreateExperiment { experiment: Some(experiment) }));
    driver.start("e", v1::AutonomyLevel::A4Bounded);
    driver.tick(500);
    let (conversion, revenue, begin) =
        (driver.metric("conversion"), driver.metric("revenue"), driver.minute());
    let exposure = |arm, unit_hash, minute, country: &str| log::ExposureFact {
        experiment: 1,
        arm,
        unit_hash,
        minute,
        dimensions: vec![text(country)],
        ..log::ExposureFact::default()
    };
    let outcome = |metric, unit_hash, value, minute| log::OutcomeFact {
        metric,
        unit_hash,
        value,
        minute,
        ..log::OutcomeFact::default()
    };
    let mut first = batch("shop", 1);
    first.exposures =
        vec![exposure(0, 5, begin, "DE"), exposure(1, 6, begin, "FR"), exposure(0, 7, begin, "DE")];
    first.outcomes = vec![outcome(conversion, 5, 1, begin), outcome(revenue, 6, -1_250, begin)];
    driver.ingest(vec![first]);
    driver.tick(3_600_000);
    let now = driver.minute();
    let mut second = batch("shop", 2);
    // One crosses, one comes late, and one goes.
    second.exposures = vec![exposure(1, 5, now, "DE"), exposure(1, 8, now - 60, "")];
    second.outcomes = vec![outcome(revenue, 6, 300, now - 60), outcome(revenue, 6, 7, now)];
    driver.ingest(vec![second]);
    let erase = log::EraseUnit { parent: text("environments/production"), unit_key_id: 7, unit_hash: 7 };
    driver.done(entry::Command::EraseUnit(erase));
    let written = driver.state.sections();
    let ours = |name: &str| name.starts_with("series/") || name.starts_with("sample/") || name == "erasures";
    let mut golden = Golden::open("sections/ledger");
    let mut seen = 0;
    for section in written.iter().filter(|section| ours(&section.name)) {
        let kept = golden.bytes(&section.name.replace('/', "."), || section.bytes.clone());
        assert_eq!(kept, section.bytes, "{}: bytes changed", section.name);
        seen += 1;
    }
    assert!(seen >= 5, "only {seen} sections");
    golden.has_nothing_else();
    assert_eq!(State::from_sections(&written).unwrap().sections(), written);
}
