//! A fleet on a cluster of three Cassandra nodes with three copies of every row, as in production. `make cluster` runs it:
//! three nodes take a minute to start, and as much again to come back.

mod slow;
mod writes;

use herald::{
    config::{DispatcherStore, Node, StoreKind},
    dispatcher::store::cassandra::migrate,
};
use std::time::{Duration, Instant};
use testbed::{
    Client, Fleet,
    cassandra::{CassandraNode, DATACENTER, fresh_keyspace},
    kafka,
};

const WAIT: Duration = Duration::from_secs(120);
const USERS: usize = 20;

/// The machine is not made for two of these.
static ONE_CLUSTER: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// And the way to them, with a keyspace that is not made yet.
async fn three_nodes() -> (Vec<CassandraNode>, DispatcherStore) {
    let nodes = tokio::task::spawn_blocking(|| CassandraNode::start_cluster(3));
    let nodes = nodes.await.expect("three nodes");
    let store = DispatcherStore {
        kind: StoreKind::Cassandra,
        contact_points: nodes.iter().map(CassandraNode::address).collect(),
        keyspace: fresh_keyspace(),
        datacenter: Some(DATACENTER.into()),
        replication: 3,
        ..DispatcherStore::default()
    };
    (nodes, store)
}

/// Three nodes, and a fleet of two dispatchers and one gateway on them.
struct World {
    nodes: Vec<CassandraNode>,
    fleet: Fleet,
}

impl World {
    async fn start() -> World {
        let (nodes, store) = three_nodes().await;
        let mut fleet = Fleet::prepare_on(kafka::brokers(), 2, 1, &[]);
        let node = Node {
            namespace: fleet.namespace.parse().expect("a label"),
            ..Node::default()
        };
        migrate(&store, &node).await.expect("tables");
        for dispatcher in &mut fleet.dispatchers {
            let process = &mut dispatcher.process;
            process.set("store.kind", "cassandra");
            let addresses = format!("{:?}", store.contact_points);
            process.set("store.contact_points", &addresses);
            process.set("store.keyspace", &store.keyspace);
            process.set("store.datacenter", DATACENTER);
        }
        fleet.apply_topics();
        fleet.nobody_owned_a_shard();
        fleet.run().await;
        World { nodes, fleet }
    }

    /// Their users are `u0`, `u1` and so on.
    async fn clients(&self) -> Vec<Client> {
        let device = |n| Client::start(self.fleet.ws_urls(0), self.fleet.token(&format!("u{n}")));
        let clients: Vec<Client> = (0..USERS).map(device).collect();
        let closed = async || clients.iter().filter(|client| !client.is_open()).count();
        self.fleet.eventually("clients connect", WAIT, closed).await;
        clients
    }

    /// So many to each user, without a key: the store is not asked.
    async fn post(&self, each: usize) -> Vec<(usize, String)> {
        let mut posted = Vec::new();
        for n in 0..each * USERS {
            let user = n % USERS;
            let dispatcher = &self.fleet.dispatchers[n % 2];
            let id = dispatcher
                .api
                .notify_once(&format!("u{user}"), &format!("n{n}"))
                .await;
            posted.push((user, id.expect("accepted")));
        }
        posted
    }

    async fn all_come_live(&self, clients: &[Client], posted: &[(usize, String)]) {
        let missing = async || {
            let is_missing = |(user, id): &&(usize, String)| clients[*user].live(id) == 0;
            posted.iter().filter(is_missing).count()
        };
        self.fleet.eventually("deliveries", WAIT, missing).await;
    }

    /// What a client that comes anew is told by its first sync: whether nothing is missing, and how much there is.
    async fn first_sync(&self, user: usize) -> (bool, usize) {
        let client = Client::start(self.fleet.ws_urls(0), self.fleet.token(&format!("u{user}")));
        let unanswered = async || usize::from(client.seen.lock().unwrap().recovered.is_none());
        self.fleet.eventually("a sync", WAIT, unanswered).await;
        let seen = client.seen.lock().unwrap();
        (seen.recovered == Some(true), seen.times.len())
    }

    async fn newcomers_are_told(&self, user: usize, expected: (bool, usize)) {
        let other = async || usize::from(self.first_sync(user).await != expected);
        let what = format!("a first sync of {expected:?}");
        self.fleet.eventually(&what, WAIT, other).await;
    }

    /// Every dispatcher is ready, and names the store as being away, or does not.
    async fn store_is_named(&self, is_away: bool) {
        let others = async || {
            let mut others = 0;
            for dispatcher in &self.fleet.dispatchers {
                let said = self.fleet.readyz(dispatcher.admin_port).await;
                let holds = said.is_some_and(|(status, body)| {
                    status == 200 && body.contains("\"store\"") == is_away
                });
                others += usize::from(!holds);
            }
            others
        };
        let what = format!("the store is away: {is_away}");
        self.fleet.eventually(&what, WAIT, others).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "three nodes of Cassandra: `make cluster`"]
async fn of_three_nodes_one_dies_and_nothing_changes_two_die_and_one_is_read_and_the_rest_waits() {
    let _alone = ONE_CLUSTER.lock().await;
    let mut world = World::start().await;
    let clients = world.clients().await;
    let posted = world.post(5).await;
    world.all_come_live(&clients, &posted).await;

    world.nodes[2].kill();
    let died = Instant::now();
    let posted = world.post(5).await;
    world.all_come_live(&clients, &posted).await;
    // Until the other nodes have noticed, a read may wait for the dead one for longer than a sync waits.
    world.newcomers_are_told(0, (true, 10)).await;
    println!(
        "syncs were whole {:.1} s after a node had died",
        died.elapsed().as_secs_f64()
    );
    world.store_is_named(false).await;

    world.nodes[1].kill();
    let waiting = world.post(5).await;
    world.store_is_named(true).await;
    // What one replica has.
    world.newcomers_are_told(1, (false, 10)).await;
    let page = "/v1/users/u2/notifications?limit=50";
    let (status, inbox) = world.fleet.api.get(page).await;
    let rows = inbox["items"].as_array().map(Vec::len);
    assert_eq!((status, rows), (200, Some(10)), "{inbox}");
    let came = waiting
        .iter()
        .filter(|(user, id)| clients[*user].live(id) > 0);
    assert_eq!(came.count(), 0, "nothing is pushed before it is stored");

    for node in [1, 2] {
        world.nodes[node].start_again();
    }
    world.store_is_named(false).await;
    world.all_come_live(&clients, &waiting).await;
    world.newcomers_are_told(3, (true, 15)).await;
}
