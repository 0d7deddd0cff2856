use featureops_proto::v1::{self, SetFlagRequest};
use std::time::{Duration, Instant};
#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let n: usize = args[0].parse().unwrap();
    let secs: f64 = args[1].parse().unwrap();
    let mut clients = Vec::new();
    for a in &args[2..] {
        let ch =
            tonic::transport::Endpoint::from_shared(format!("http://{a}")).unwrap().connect().await.unwrap();
        clients.push(featureops::rpc::flag_service_client::FlagServiceClient::new(ch));
    }
    let until = Instant::now() + Duration::from_secs_f64(secs);
    let mut set = tokio::task::JoinSet::new();
    for t in 0..n {
        let mut c = clients[t % clients.len()].clone();
        set.spawn(async move {
            let mut lat = Vec::new();
            let mut i = 0u64;
            while Instant::now() < until {
                i += 1;
                let flag = v1::Flag {
                    name: format!("environments/bench/flags/w-{t}"),
                    r#type: v1::ValueType::Boolean.into(),
                    variants: [("on".to_owned(), true.into())].into(),
                    default_variant: Some("on".to_owned()),
                    description: format!("{i:0>256}"),
                    ..v1::Flag::default()
                };
                let b = Instant::now();
                c.set_flag(SetFlagRequest { flag: Some(flag), ..SetFlagRequest::default() }).await.unwrap();
                lat.push(b.elapsed().as_secs_f64() * 1e3);
            }
            lat
        });
    }
    let mut all = Vec::new();
    while let Some(l) = set.join_next().await {
        all.extend(l.unwrap());
    }
    all.sort_by(f64::total_cmp);
    println!(
        "n={n} {:.0}/s p50 {:.2} p99 {:.2}",
        all.len() as f64 / secs,
        all[all.len() / 2],
        all[all.len() * 99 / 100]
    );
}
