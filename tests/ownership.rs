//! Who owns what, on a real fleet: gateways that come, go, stand still and are replaced; a registry that comes
//! back empty. Nothing is lost meanwhile, and nobody registers again who need not.

use std::time::{Duration, Instant};
use testbed::{Client, Fleet, api::sum_of};

/// Each test has a fleet of its own, and the machine may have two cores: one after the other.
static ONE_FLEET: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const WAIT: Duration = Duration::from_secs(60);

/// Clients `<prefix>0`, `<prefix>1` … of one gateway, who go to others when it does not take them.
fn clients(fleet: &Fleet, gateway: usize, prefix: &str, count: usize) -> Vec<Client> {
    (0..count)
        .map(|n| Client::start(fleet.ws_urls(gateway), fleet.token(&format!("{prefix}{n}"))))
        .collect()
}

async fn all_open(fleet: &Fleet, clients: &[&Client]) {
    fleet
        .eventually("clients connect", WAIT, async || {
            clients.iter().filter(|client| !client.is_open()).count()
        })
        .await;
}

/// Posts one notification to each; answers the ids.
async fn post(fleet: &Fleet, prefix: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..count {
        let id = fleet.api.notify(&format!("{prefix}{n}"), "title").await;
        ids.push(id.expect("accepted"));
    }
    ids
}

async fn arrived(fleet: &Fleet, what: &str, clients: &[Client], ids: &[String]) {
    let missing = || {
        let pairs = ids.iter().enumerate();
        let pairs = pairs.map(|(n, id)| (n, id, &clients[n % clients.len()]));
        pairs.filter(|(_, id, client)| client.times(id) == 0)
    };
    let explain = || {
        let one = |(n, id, client): (usize, &String, &Client)| {
            let seen = client.seen.lock().unwrap();
            let (connects, open, url) = (seen.connects, seen.open, &seen.url);
            format!(
                "the {n}th, {id}: connects {connects}, open {open}, {url}, {:?}",
                seen.times
            )
        };
        let missing: Vec<String> = missing().map(one).collect();
        format!("{}\n{}", missing.join("\n"), fleet.logs())
    };
    testbed::eventually(what, WAIT, async || missing().count(), explain).await;
}

/// One metric without labels of a gateway.
async fn metric(fleet: &Fleet, gateway: usize, name: &str) -> usize {
    let port = fleet.gateways[gateway].admin_port;
    sum_of(&fleet.api.metrics(port).await, name)
}

async fn shard(fleet: &Fleet, gateway: usize) -> usize {
    metric(fleet, gateway, "herald_shard ").await
}

/// Waits until a gateway says that it is not ready, and why.
async fn not_ready(fleet: &Fleet, gateway: usize, why: &str) {
    let port = fleet.gateways[gateway].admin_port;
    fleet
        .eventually(&format!("not ready: {why}"), WAIT, async || {
            let answer = fleet.readyz(port).await;
            usize::from(!answer.is_some_and(|(status, text)| status == 503 && text.contains(why)))
        })
        .await;
}

/// Four gateways and three shards; the fourth is not started.
async fn four_for_three() -> Fleet {
    let mut fleet = Fleet::prepare(4, &[]);
    fleet.make_topics(3).await;
    fleet.dispatchers[0].process.start();
    for gateway in &mut fleet.gateways[..3] {
        gateway.process.start();
    }
    for gateway in &fleet.gateways[..3] {
        fleet.ready_at(gateway.admin_port).await;
    }
    fleet
}

/// Leaves in order; whoever waits for a shard has it then.
async fn leave_to(fleet: &mut Fleet, leaver: usize, waiting: usize) {
    fleet.gateways[leaver].process.signal(libc::SIGTERM);
    fleet.gateways[leaver].process.wait();
    fleet.ready_at(fleet.gateways[waiting].admin_port).await;
}

/// A user's three devices go from gateway to gateway while notifications flow: none is missed, and none comes
/// live more often than a record may be looked for.
async fn wanders(fleet: &Fleet) {
    const HOPS: u32 = 3;
    let devices: Vec<Client> = (0..3)
        .map(|n| Client::start(fleet.ws_urls(n), fleet.token("wanderer")))
        .collect();
    all_open(fleet, &devices.iter().collect::<Vec<_>>()).await;
    // Who never had one is new wherever they go, and a newcomer is given the newest only.
    let mut ids = vec![fleet.api.notify("wanderer", "title").await.unwrap()];
    fleet
        .eventually("every device has its first", WAIT, async || {
            let missing = |device: &&Client| device.times(&ids[0]) == 0;
            devices.iter().filter(missing).count()
        })
        .await;
    for n in 0..150 {
        ids.push(fleet.api.notify("wanderer", "title").await.unwrap());
        if n % 5 == 0 {
            devices[n / 5 % devices.len()].move_on();
        }
    }
    for device in &devices {
        fleet
            .eventually("the wanderer has everything", WAIT, async || {
                ids.iter().filter(|id| device.times(id) == 0).count()
            })
            .await;
        let most = ids.iter().map(|id| device.live(id)).max().unwrap();
        assert!(most <= 1 + HOPS, "one came live {most} times");
        assert!(device.seen.lock().unwrap().connects > 3, "it never moved");
    }
}

/// The first gateway stands still until the third, which waits, has its shard: its clients go where notifications reach
/// them, by themselves, and are welcome again once it has a shard.
async fn sends_its_clients_on(fleet: &mut Fleet, devices: &[Client]) {
    let here = fleet.ws_urls(0).remove(0);
    let at_home = |device: &&Client| device.seen.lock().unwrap().url == here;
    let all_here = devices.iter().filter(at_home).count();
    assert_eq!(all_here, devices.len(), "they were here before");
    fleet.gateways[0].process.signal(libc::SIGSTOP);
    let mut ids = post(fleet, "a", devices.len()).await;
    fleet.ready_at(fleet.gateways[2].admin_port).await;
    fleet.gateways[0].process.signal(libc::SIGCONT);
    not_ready(fleet, 0, "all 3 shards are owned").await;
    ids.extend(post(fleet, "a", devices.len()).await);
    fleet
        .eventually("they are elsewhere", WAIT, async || {
            let elsewhere = |device: &&Client| device.is_open() && !at_home(device);
            devices.len() - devices.iter().filter(elsewhere).count()
        })
        .await;
    arrived(fleet, "what came on the way", devices, &ids).await;
    let ids = post(fleet, "a", devices.len()).await;
    arrived(fleet, "what comes there", devices, &ids).await;
    assert_eq!(metric(fleet, 0, "herald_shardless_drains_total ").await, 1);
    leave_to(fleet, 2, 0).await;
    let newcomer = Client::start(vec![here], fleet.token("newcomer"));
    all_open(fleet, &[&newcomer]).await;
}

/// Longer than any lease.
async fn stands_still(since: Instant) {
    let left = Duration::from_secs(15).saturating_sub(since.elapsed());
    tokio::time::sleep(left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_waits_for_a_free_shard_and_those_that_stood_still_give_up_what_was_taken_and_lose_nothing()
 {
    let _alone = ONE_FLEET.lock().await;
    let mut fleet = four_for_three().await;
    wanders(&fleet).await;
    let devices = clients(&fleet, 0, "a", 20);
    let others = clients(&fleet, 1, "b", 5);
    all_open(&fleet, &devices.iter().chain(&others).collect::<Vec<_>>()).await;
    fleet.gateways[3].process.start();
    not_ready(&fleet, 3, "all 3 shards are owned").await;

    // One leaves: the one that waited has its shard, by no one's configuration.
    let free = shard(&fleet, 2).await;
    leave_to(&mut fleet, 2, 3).await;
    assert_eq!(shard(&fleet, 3).await, free);
    fleet.gateways[2].process.start();
    not_ready(&fleet, 2, "all 3 shards are owned").await;

    // One stands still for longer than its lease: whoever waits has its shard, and leaves before it is back.
    let registered = metric(&fleet, 0, "herald_registrations_total ").await;
    let epoch = metric(&fleet, 0, "herald_epoch ").await;
    let taken = shard(&fleet, 0).await;
    let stood_still = Instant::now();
    fleet.gateways[0].process.signal(libc::SIGSTOP);
    let mut ids = post(&fleet, "a", 20).await;
    fleet.ready_at(fleet.gateways[2].admin_port).await;
    assert_eq!(shard(&fleet, 2).await, taken);
    ids.extend(post(&fleet, "a", 20).await);
    fleet.gateways[2].process.signal(libc::SIGTERM);
    fleet.gateways[2].process.wait();
    stands_still(stood_still).await;
    fleet.gateways[0].process.signal(libc::SIGCONT);
    // It goes on under its epoch, and its clients catch up.
    fleet
        .eventually("it knows what was taken", WAIT, async || {
            let log = fleet.gateways[0].process.log();
            usize::from(!log.contains("the shard was lost"))
        })
        .await;
    fleet.ready_at(fleet.gateways[0].admin_port).await;
    assert_eq!(shard(&fleet, 0).await, taken);
    ids.extend(post(&fleet, "a", 20).await);
    arrived(&fleet, "what came meanwhile", &devices, &ids).await;
    assert_eq!(metric(&fleet, 0, "herald_epoch ").await, epoch);
    let now = metric(&fleet, 0, "herald_registrations_total ").await;
    assert_eq!(
        now, registered,
        "nobody is entered again under the same epoch"
    );

    // Another does, and its id is taken: it ends, and its clients find what they missed elsewhere.
    let others_epoch = metric(&fleet, 1, "herald_epoch ").await;
    let stood_still = Instant::now();
    fleet.gateways[1].process.signal(libc::SIGSTOP);
    let mut twin = fleet.twin(1);
    twin.process.start();
    let others_ids = post(&fleet, "b", 5).await;
    fleet.ready_at(twin.admin_port).await;
    let metrics = fleet.api.metrics(twin.admin_port).await;
    assert!(sum_of(&metrics, "herald_epoch ") > others_epoch);
    stands_still(stood_still).await;
    fleet.gateways[1].process.signal(libc::SIGCONT);
    let status = fleet.gateways[1].process.wait();
    assert!(!status.success());
    let log = fleet.gateways[1].process.log();
    assert!(log.contains("the gateway id gw-2 is in use"), "{log}");
    arrived(&fleet, "what the other's missed", &others, &others_ids).await;

    fleet.gateways[2].process.start();
    not_ready(&fleet, 2, "all 3 shards are owned").await;
    sends_its_clients_on(&mut fleet, &devices).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_gateways_shard_is_finished_and_an_empty_redis_is_filled_again() {
    const USERS: usize = 40;
    let _alone = ONE_FLEET.lock().await;
    let mut fleet = Fleet::start(2, &[]).await;
    let stays = clients(&fleet, 1, "b", USERS);
    let moves = clients(&fleet, 0, "a", USERS);
    all_open(&fleet, &stays.iter().chain(&moves).collect::<Vec<_>>()).await;
    let old_shard = shard(&fleet, 0).await;
    let old_epoch = metric(&fleet, 0, "herald_epoch ").await;

    // What is posted while a gateway stands still waits in its shard; then the gateway dies.
    fleet.gateways[0].process.signal(libc::SIGSTOP);
    let ids = post(&fleet, "a", USERS).await;
    fleet.gateways[0].process.kill();
    let died = Instant::now();
    fleet
        .eventually("the shard is finished", WAIT, async || {
            let metrics = fleet.api.metrics(fleet.dispatchers[0].admin_port).await;
            let name = "herald_finished_total{result=\"not_here\"} ";
            // It is counted from the first one on.
            match metrics.contains(name) {
                true => USERS.saturating_sub(sum_of(&metrics, name)),
                false => USERS,
            }
        })
        .await;
    println!("finished {:?} after the kill", died.elapsed());
    arrived(&fleet, "what the dead one left", &moves, &ids).await;

    // It comes back: the same shard, a later epoch.
    fleet.gateways[0].process.start();
    fleet.ready().await;
    assert_eq!(shard(&fleet, 0).await, old_shard);
    let epoch = metric(&fleet, 0, "herald_epoch ").await;
    assert!(epoch > old_epoch);

    // Redis comes back empty: owners keep what they have, everyone is entered again.
    let shards = [shard(&fleet, 0).await, shard(&fleet, 1).await];
    fleet.redis.kill();
    // What all hosts share takes none of them out of the load balancer.
    for gateway in &fleet.gateways {
        fleet
            .eventually("degraded, and why", WAIT, async || {
                let answer = fleet.readyz(gateway.admin_port).await;
                let named = answer
                    .is_some_and(|(status, text)| status == 200 && text.contains("\"registry\""));
                usize::from(!named)
            })
            .await;
    }
    fleet.redis.restart();
    let mut ids = post(&fleet, "b", USERS).await;
    fleet
        .eventually("users are entered again", WAIT, async || {
            let gone = |prefix: &str, n: usize| {
                let key = format!("{}:conn:{prefix}{n}", fleet.namespace);
                fleet.redis.raw(&["EXISTS", &key]) != ":1\r\n"
            };
            let users = (0..USERS).flat_map(|n| [("a", n), ("b", n)]);
            users.filter(|(prefix, n)| gone(prefix, *n)).count()
        })
        .await;
    fleet
        .eventually("the comparison says what it found", WAIT, async || {
            let missing = metric(&fleet, 1, "herald_registry_missing_total ").await;
            usize::from(missing == 0)
        })
        .await;
    ids.extend(post(&fleet, "b", USERS).await);
    arrived(&fleet, "what came meanwhile", &stays, &ids).await;
    assert_eq!([shard(&fleet, 0).await, shard(&fleet, 1).await], shards);
    assert_eq!(metric(&fleet, 0, "herald_epoch ").await, epoch);
    fleet.gateways[0].process.signal(libc::SIGTERM);
    fleet.gateways[0].process.wait();
    fleet.gateways[0].process.start();
    fleet.ready().await;
    assert!(metric(&fleet, 0, "herald_epoch ").await > epoch);
    assert_eq!(shard(&fleet, 0).await, shards[0]);
}
