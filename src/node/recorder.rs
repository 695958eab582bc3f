//! Recordings: the bytes of the bus in an MCAP file, and an MCAP file back onto the bus.
//!
//! Profile `ros2`, message encoding `cdr`, schema encoding `ros2msg`: Rerun, Foxglove, PlotJuggler
//! and `ros2 bag` open it. A payload is written as it came, whatever it is. The topic is the key
//! with a slash before it. Log time is the arrival, publish time the sender's stamp; the sequence is
//! the sender's. Source: mcap.dev specification and registry (profile ros2).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mcap::records::MessageHeader;
use mcap::{Attachment, MessageStream, WriteOptions, Writer};
use zenoh::liveliness::LivelinessToken;
use zenoh::pubsub::Subscriber;
use zenoh::{Session, Wait};

use super::bus::{Outlet, attachment_of, bus_error, declare_alive};
use super::clock::wall_nanos;
use super::stop::Stop;
use crate::wire::{self, Congestion, Keys, Qos, Role, Schema};
use crate::{Error, Result};

/// Messages that wait for the disk; beyond that they are lost and counted.
const QUEUE: usize = 1024;
/// Uncompressed bytes of an MCAP chunk: what a crash can cost.
const CHUNK_BYTES: u64 = 256 << 10;
/// What rosbag2 writes for "the defaults of a sensor": keep last 10, best effort, volatile.
const OFFERED_QOS: &str = "- history: 1\n  depth: 10\n  reliability: 2\n  durability: 2\n  \
    deadline: {sec: 9223372036, nsec: 854775807}\n  \
    lifespan: {sec: 9223372036, nsec: 854775807}\n  liveliness: 1\n  \
    liveliness_lease_duration: {sec: 9223372036, nsec: 854775807}\n  \
    avoid_ros_namespace_conventions: false\n";

struct Taken {
    topic: usize,
    sequence: u32,
    log_nanos: u64,
    publish_nanos: u64,
    bytes: Vec<u8>,
}

/// A recording in progress: observations, chunks and actions of one robot.
pub struct Recorder {
    path: PathBuf,
    subscribers: Vec<Subscriber<()>>,
    sender: Option<SyncSender<Taken>>,
    writer: Option<JoinHandle<Result<McapFile>>>,
    lost: Arc<AtomicU64>,
    written: Arc<AtomicU64>,
    alive: Option<LivelinessToken>,
}

impl Recorder {
    /// Starts to record the robot's observations, chunks and actions into `path`.
    ///
    /// # Errors
    /// The file cannot be created, or the session is closed.
    pub fn start(session: &Session, robot: &str, path: &Path) -> Result<Self> {
        let keys = Keys::new(robot)?;
        let topics = [
            (keys.observation(), wire::OBSERVATION),
            (keys.chunk(), wire::ACTION_CHUNK),
            (keys.action(), wire::ACTION),
        ];
        let mut file = McapFile::create(path)?;
        for (key, schema) in &topics {
            file.add_topic(key, schema)?;
        }
        let (sender, receiver) = sync_channel(QUEUE);
        let (lost, written) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let counter = Arc::clone(&written);
        let writer = std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || write_all(file, &receiver, &counter))
            .map_err(|e| Error::io(path, e))?;
        let mut subscribers = Vec::with_capacity(topics.len());
        for (topic, (key, _)) in topics.iter().enumerate() {
            subscribers.push(subscribe(session, key, topic, &sender, &lost)?);
        }
        let alive =
            declare_alive(session, &keys.alive(Role::Recorder, &session.zid().to_string())?)?;
        Ok(Self {
            path: path.to_owned(),
            subscribers,
            sender: Some(sender),
            writer: Some(writer),
            lost,
            written,
            alive: Some(alive),
        })
    }

    /// Messages in the file so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Messages lost because the disk could not follow.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Ends the recording; `summary` is attached as `summary.json`, and each of `episodes` becomes
    /// a metadata record `episode`. Returns the number of messages.
    ///
    /// # Errors
    /// The disk is full, or the writer's thread died; what was written before is on disk.
    pub fn finish(
        mut self,
        summary: Option<&serde_json::Value>,
        episodes: &[serde_json::Value],
    ) -> Result<u64> {
        let mut file = self.stop_writing()?;
        for episode in episodes {
            file.metadata("episode", episode)?;
        }
        if let Some(summary) = summary {
            file.attach("summary.json", &summary.to_string())?;
        }
        file.finish()?;
        Ok(self.written())
    }

    fn stop_writing(&mut self) -> Result<McapFile> {
        if let Some(alive) = self.alive.take() {
            // A closed session has undeclared everything already.
            let _ = alive.undeclare().wait();
        }
        for subscriber in self.subscribers.drain(..) {
            let _ = subscriber.undeclare().wait();
        }
        drop(self.sender.take());
        let died =
            || Error::Invalid(format!("{}: the recorder's thread died", self.path.display()));
        let writer = self.writer.take().ok_or_else(died)?;
        writer.join().map_err(|_| died())?
    }
}

fn subscribe(
    session: &Session,
    key: &str,
    topic: usize,
    sender: &SyncSender<Taken>,
    lost: &Arc<AtomicU64>,
) -> Result<Subscriber<()>> {
    let (sender, lost) = (sender.clone(), Arc::clone(lost));
    session
        .declare_subscriber(key.to_owned())
        .callback(move |sample| {
            let log_nanos = unsigned(wall_nanos());
            let stamp = attachment_of(&sample);
            let taken = Taken {
                topic,
                sequence: stamp.map_or(0, |stamp| stamp.seq as u32),
                log_nanos,
                publish_nanos: stamp.map_or(log_nanos, |stamp| unsigned(stamp.source_time_ns)),
                bytes: sample.payload().to_bytes().into_owned(),
            };
            // Never make the bus wait for the disk.
            if sender.try_send(taken).is_err() {
                lost.fetch_add(1, Ordering::Relaxed);
            }
        })
        .wait()
        .map_err(bus_error(key))
}

fn write_all(
    mut file: McapFile,
    receiver: &Receiver<Taken>,
    written: &AtomicU64,
) -> Result<McapFile> {
    while let Ok(taken) = receiver.recv() {
        file.write(&taken)?;
        written.fetch_add(1, Ordering::Relaxed);
    }
    Ok(file)
}

fn unsigned(nanos: i64) -> u64 {
    u64::try_from(nanos).unwrap_or(0)
}

/// An MCAP file being written.
struct McapFile {
    path: PathBuf,
    writer: Writer<BufWriter<File>>,
    channels: Vec<u16>,
}

impl McapFile {
    fn create(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        let file = File::create(path).map_err(|e| Error::io(path, e))?;
        let writer = WriteOptions::new()
            .compression(None)
            .profile("ros2")
            .library(concat!("pathline ", env!("CARGO_PKG_VERSION")))
            .chunk_size(Some(CHUNK_BYTES))
            .create(BufWriter::new(file))
            .map_err(mcap_error(path))?;
        Ok(Self { path: path.to_owned(), writer, channels: Vec::new() })
    }

    fn add_topic(&mut self, key: &str, schema: &Schema) -> Result<()> {
        let metadata =
            BTreeMap::from([("offered_qos_profiles".to_owned(), OFFERED_QOS.to_owned())]);
        let id = self
            .writer
            .add_schema(schema.name, "ros2msg", schema.text.as_bytes())
            .map_err(mcap_error(&self.path))?;
        let channel = self
            .writer
            .add_channel(id, &format!("/{key}"), "cdr", &metadata)
            .map_err(mcap_error(&self.path))?;
        self.channels.push(channel);
        Ok(())
    }

    fn write(&mut self, taken: &Taken) -> Result<()> {
        let Some(channel_id) = self.channels.get(taken.topic).copied() else { return Ok(()) };
        let header = MessageHeader {
            channel_id,
            sequence: taken.sequence,
            log_time: taken.log_nanos,
            publish_time: taken.publish_nanos,
        };
        self.writer.write_to_known_channel(&header, &taken.bytes).map_err(mcap_error(&self.path))
    }

    fn metadata(&mut self, name: &str, value: &serde_json::Value) -> Result<()> {
        let fields = value.as_object().into_iter().flatten();
        let metadata = fields
            .map(|(key, value)| {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                (key.clone(), text)
            })
            .collect();
        let record = mcap::records::Metadata { name: name.to_owned(), metadata };
        self.writer.write_metadata(&record).map_err(mcap_error(&self.path))
    }

    fn attach(&mut self, name: &str, json: &str) -> Result<()> {
        let now = unsigned(wall_nanos());
        let attachment = Attachment {
            log_time: now,
            create_time: now,
            name: name.to_owned(),
            media_type: "application/json".to_owned(),
            data: json.as_bytes().into(),
        };
        self.writer.attach(&attachment).map_err(mcap_error(&self.path))
    }

    fn finish(mut self) -> Result<()> {
        self.writer.finish().map(|_| ()).map_err(mcap_error(&self.path))
    }
}

fn mcap_error(path: &Path) -> impl Fn(mcap::McapError) -> Error + '_ {
    move |error| match error {
        mcap::McapError::Io(source) => Error::io(path, source),
        other => Error::Invalid(format!("{}: {other}", path.display())),
    }
}

/// How a recording is played.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayOptions {
    /// Speed: 1 is the original timing, 2 twice as fast; must be positive.
    pub rate: f64,
    /// Plays only topics that end with one of these; all if empty.
    pub topics: Vec<String>,
    /// Puts under this robot's keys instead of the recorded one's.
    pub robot: Option<String>,
}

impl Default for ReplayOptions {
    fn default() -> Self {
        Self { rate: 1.0, topics: Vec::new(), robot: None }
    }
}

/// What was played.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
pub struct ReplayReport {
    /// Messages by key.
    pub messages: BTreeMap<String, u64>,
    /// Messages of other encodings or topics that were left out.
    pub skipped: u64,
    /// From the first to the last message, as played.
    pub seconds: f64,
    /// Ended by the stop flag.
    pub interrupted: bool,
}

/// Puts the messages of an MCAP file onto the bus, in file order and with their timing.
///
/// The payloads are the recorded bytes; sequence and stamp in the attachment are new. A robot that
/// runs refuses replayed chunks, because they echo another run's nonce.
///
/// # Errors
/// A file that cannot be read or is no MCAP; a rate that is not positive; a closed session.
pub fn replay(
    session: &Session,
    path: &Path,
    options: &ReplayOptions,
    stop: &Stop,
) -> Result<ReplayReport> {
    if !(options.rate.is_finite() && options.rate > 0.0) {
        return Err(Error::Invalid(format!("--rate: expected a number > 0, got {}", options.rate)));
    }
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let messages = MessageStream::new(&bytes).map_err(mcap_error(path))?;
    let mut outlets: BTreeMap<String, Outlet> = BTreeMap::new();
    let mut report = ReplayReport::default();
    let started = Instant::now();
    let mut first = None;
    for message in messages {
        let message = message.map_err(mcap_error(path))?;
        let known = message
            .channel
            .schema
            .as_ref()
            .and_then(|schema| wire::schema(&format!("application/cdr;{}", schema.name)));
        let topic = message.channel.topic.trim_start_matches('/');
        let wanted =
            options.topics.is_empty() || options.topics.iter().any(|end| topic.ends_with(end));
        let (Some(schema), true) = (known, wanted) else {
            report.skipped += 1;
            continue;
        };
        let key = retarget(topic, options.robot.as_deref())?;
        let first = *first.get_or_insert(message.log_time);
        let offset = Duration::from_nanos(message.log_time.saturating_sub(first));
        let at = started + offset.div_f64(options.rate);
        if stop.wait_timeout(at.saturating_duration_since(Instant::now())) {
            report.interrupted = true;
            break;
        }
        if !outlets.contains_key(&key) {
            // Nobody's control loop waits here, and a recording with holes is no replay.
            let qos = Qos { congestion: Congestion::Block, ..qos_of(schema, message.data.len()) };
            let outlet = Outlet::declare(session, &key, schema.encoding, qos)?;
            outlets.insert(key.clone(), outlet);
        }
        if let Some(outlet) = outlets.get(&key) {
            outlet.put(message.data.to_vec())?;
        }
        *report.messages.entry(key).or_default() += 1;
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// The recorded key, or the same key of another robot.
fn retarget(key: &str, robot: Option<&str>) -> Result<String> {
    let Some(robot) = robot else { return Ok(key.to_owned()) };
    Keys::new(robot)?;
    let mut parts = key.splitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(root), Some(_), Some(rest)) => Ok(format!("{root}/{robot}/{rest}")),
        _ => Err(Error::Invalid(format!("topic {key:?}: expected pathline/ROBOT/…"))),
    }
}

fn qos_of(schema: &Schema, len: usize) -> Qos {
    match schema.name {
        name if name == wire::ACTION_CHUNK.name => Qos::CHUNK,
        name if name == wire::ACTION.name => Qos::ACTION,
        _ => Qos::observation(len),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_to_another_robot() {
        assert_eq!(retarget("pathline/a/cmd/chunk", Some("b")).unwrap(), "pathline/b/cmd/chunk");
        assert_eq!(retarget("pathline/a/obs", None).unwrap(), "pathline/a/obs");
        assert!(retarget("obs", Some("b")).is_err());
        assert!(retarget("pathline/a/obs", Some("b/c")).is_err());
    }

    #[test]
    fn a_file_is_read_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs/new/a.mcap");
        let mut file = McapFile::create(&path).unwrap();
        file.add_topic("pathline/a/obs", &wire::OBSERVATION).unwrap();
        file.add_topic("pathline/a/cmd/action", &wire::ACTION).unwrap();
        for i in 0..10_u8 {
            let topic = usize::from(i % 2);
            let (log_nanos, publish_nanos) = (u64::from(i) * 10, u64::from(i) * 10 - u64::from(i));
            let bytes = vec![i; 5];
            file.write(&Taken { topic, sequence: i.into(), log_nanos, publish_nanos, bytes })
                .unwrap();
        }
        file.metadata("episode", &serde_json::json!({ "seed": 3, "name": "x" })).unwrap();
        file.attach("summary.json", "{}").unwrap();
        file.finish().unwrap();

        let bytes = std::fs::read(&path).unwrap();
        let messages: Vec<_> = MessageStream::new(&bytes).unwrap().map(|m| m.unwrap()).collect();
        assert_eq!(messages.len(), 10);
        for (i, message) in messages.iter().enumerate() {
            assert_eq!(message.data.to_vec(), vec![i as u8; 5]);
            assert_eq!((message.sequence, message.log_time), (i as u32, i as u64 * 10));
            assert_eq!(message.publish_time, i as u64 * 9);
            assert_eq!(message.channel.message_encoding, "cdr");
            assert!(message.channel.metadata.contains_key("offered_qos_profiles"));
            assert_eq!(message.channel.schema.as_ref().unwrap().encoding, "ros2msg");
        }
        let summary = mcap::Summary::read(&bytes).unwrap().unwrap();
        let record = mcap::read::metadata(&bytes, &summary.metadata_indexes[0]).unwrap();
        assert_eq!(record.metadata["seed"], "3");
        assert_eq!(record.metadata["name"], "x");
        assert_eq!(summary.attachment_indexes.len(), 1);
    }
}
