//! S3, or what stands before it, in trouble: no answer but S3's own ends a version, and what can be listed is found.

use axum::http::{Method, StatusCode, Uri};

use crate::harness::{World, data};

/// Whether a request is for the content of an object, or with HEAD for what it is.
fn is_for_an_object(uri: &Uri) -> bool {
    uri.path().ends_with(".csv")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_answers_for_s3_ends_no_version() {
    let (world, proxy) = World::behind_a_proxy("proxy", |_| ()).await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(6)).await;
    let answers = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED, StatusCode::PRECONDITION_FAILED];
    for (round, status) in answers.into_iter().enumerate() {
        proxy.answer(move |method, uri| (*method == Method::GET && is_for_an_object(uri)).then_some(status));
        for number in 0..6 {
            let key = format!("health/{round}-{number}.csv");
            world.put(&key, data::health(6, "2025-01-01", 20, number)).await;
        }
        let failed = format!(
            "SELECT count(*) = 6 FROM pipeline.objects WHERE key LIKE 'health/{round}-%' AND attempts > 0 AND reason <> ''"
        );
        world.until("each file has failed", &failed).await;
        let states: Vec<String> = world.column("SELECT DISTINCT state FROM pipeline.objects").await;
        assert!(!states.contains(&"superseded".to_owned()), "{status}: {states:?}");
        assert!(proxy.recover() >= 6);
        world.settle().await;
    }
    world.all_hold().await;
    let applied: i64 = world.query("SELECT count(*) FROM pipeline.objects WHERE state = 'applied'").await;
    assert_eq!(applied, 19);
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_answers_every_question_about_an_object_only_delays_it() {
    let (world, proxy) = World::behind_a_proxy("proxy-all", |_| ()).await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(6)).await;
    world.put("health/before.csv", data::health(6, "2025-01-01", 20, 1)).await;
    world.settle().await;
    // HEAD too: a file that a listing shows and that cannot be looked at is neither registered nor forgotten.
    proxy.answer(|_, uri| is_for_an_object(uri).then_some(StatusCode::NOT_FOUND));
    world.services.s3.put_object().bucket(world.raw_bucket()).key("health/marker").send().await.expect("put");
    let refused = world.services.s3.get_object().bucket(world.raw_bucket()).key("health/before.csv").send().await;
    assert!(refused.is_err(), "the proxy answers");
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let before: i64 = world.query("SELECT count(*) FROM pipeline.objects WHERE state = 'applied'").await;
    assert_eq!(before, 2, "what was applied stays so");
    assert!(proxy.recover() >= 1);
    world.put("health/after.csv", data::health(6, "2025-03-01", 20, 2)).await;
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_that_may_not_be_listed_holds_back_no_other() {
    let (world, proxy) = World::behind_a_proxy("denied", |_| ()).await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(6)).await;
    world.settle().await;
    // The domain's two patterns, one denied at a time.
    let keys = ["health/a.csv", "raw/health_data.csv"];
    for (denied, other) in [("prefix=health%2F", keys[1]), ("prefix=raw%2Fhealth_data.csv", keys[0])] {
        proxy.answer(move |_, uri| {
            uri.query().is_some_and(|query| query.split('&').any(|it| it == denied)).then_some(StatusCode::FORBIDDEN)
        });
        world.put(other, data::health(6, "2025-01-01", 20, 1)).await;
        let applied = format!("SELECT count(*) = 1 FROM pipeline.objects WHERE key = '{other}' AND state = 'applied'");
        world.until("what may be listed is applied", &applied).await;
        assert!(proxy.recover() >= 1, "{denied} was asked for");
    }
    world.settle().await;
    world.all_hold().await;
    roles.stop().await;
}
