//! `policy_msgs/ActionChunk`, and the way of its bytes through the gate without taking memory.

use std::time::Duration;

use super::cdr::{CdrResult, Reader, Writer, mismatch, not_finite, out_of_range};
use super::messages::{Header, Time};
use super::schema::ACTION_CHUNK;
use crate::Result;
use crate::action::{ActionChunk, ChunkView, Gate, MAX_DIM, MAX_HORIZON, Reason, Values, Verdict};

/// What a chunk says about itself; bits that are not known are skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    /// Values were moved onto a limit before it was sent.
    pub const CLAMPED: Self = Self(1);
    /// The observation was already old when inference began.
    pub const STALE: Self = Self(2);
    /// Made by something simpler than the policy.
    pub const FALLBACK: Self = Self(4);
    /// Made while warming up.
    pub const WARM_UP: Self = Self(8);

    /// True if every bit of `other` is set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// `policy_msgs/ActionChunk`: an action chunk and what is worth knowing about it.
#[derive(Clone, Debug, PartialEq)]
pub struct ActionChunkMsg {
    /// Time of production; informative.
    pub header: Header,
    /// Stamp of the observation that it answers; informative.
    pub obs_stamp: Time,
    /// Episode of that observation.
    pub episode: u32,
    /// Time of row 0; informative.
    pub t0: Time,
    /// Rows at the front that were frozen (real-time chunking).
    pub prefix_len: u16,
    /// Evaluations of the network.
    pub nfe: u16,
    /// Duration of the inference, milliseconds.
    pub infer_ms: f32,
    /// Seed of the noise.
    pub seed: u64,
    /// What it says about itself.
    pub flags: Flags,
    /// Share of `infer_ms` before the first solver step, milliseconds; 0 if unknown.
    pub encode_ms: f32,
    /// From the observation's arrival to the start of its inference, milliseconds; 0 if unknown.
    pub queue_ms: f32,
    /// The chunk: what the gate looks at.
    pub chunk: ActionChunk,
}

impl ActionChunkMsg {
    /// CDR bytes.
    ///
    /// # Errors
    /// [`Error::Wire`](crate::Error::Wire) if `dim` or the number of rows is 0 or too large, the last
    /// row is not whole, or `dt` is longer than its field; [`Error::Rejected`](crate::Error::Rejected)
    /// if an action is not finite.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut w = Writer::new(168 + self.header.frame_id.len() + 4 * self.chunk.actions.len());
        self.write(&mut w)?;
        Ok(w.finish()?)
    }

    /// From CDR bytes; bytes after the last field are skipped. A message that ends before
    /// [`encode_ms`](Self::encode_ms) is an older writer's: both times are unknown.
    ///
    /// # Errors
    /// [`Error::Wire`](crate::Error::Wire) if the bytes are cut short, a length exceeds its cap, a
    /// string is not UTF-8, or `horizon` and `dim` do not say how many actions there are;
    /// [`Error::Rejected`](crate::Error::Rejected) if an action is not finite.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let p = parse(bytes)?;
        let actions: Vec<f32> = p.view.values.iter().collect();
        if !actions.iter().all(|v| v.is_finite()) {
            not_finite("actions")?;
        }
        Ok(Self {
            header: Header { stamp: p.stamp, frame_id: p.frame_id.to_owned() },
            obs_stamp: p.obs_stamp,
            episode: p.episode,
            t0: p.t0,
            prefix_len: p.prefix_len,
            nfe: p.nfe,
            infer_ms: p.infer_ms,
            seed: p.seed,
            flags: p.flags,
            encode_ms: p.encode_ms,
            queue_ms: p.queue_ms,
            chunk: ActionChunk {
                session: p.view.session,
                epoch: p.view.epoch,
                seq: p.view.seq,
                obs_seq: p.view.obs_seq,
                obs_tick: p.view.obs_tick,
                dt: p.dt,
                dim: p.view.dim,
                actions,
            },
        })
    }

    fn write(&self, w: &mut Writer) -> CdrResult<()> {
        let c = &self.chunk;
        let (horizon, dim) = (c.horizon(), c.dim);
        check_shape(horizon, dim, self.prefix_len.into(), c.actions.len())?;
        self.header.write(w)?;
        w.u64(c.session);
        w.u64(c.epoch);
        w.u64(c.seq);
        w.u64(c.obs_seq);
        w.u64(c.obs_tick);
        self.obs_stamp.write(w);
        w.u32(self.episode);
        self.t0.write(w);
        let Ok(dt_secs) = i32::try_from(c.dt.as_secs()) else { return out_of_range("dt") };
        w.i32(dt_secs);
        w.u32(c.dt.subsec_nanos());
        // check_shape keeps both far below 2^16.
        w.u16(horizon as u16);
        w.u16(dim as u16);
        w.u16(self.prefix_len);
        w.u16(self.nfe);
        w.f32(self.infer_ms);
        w.u64(self.seed);
        w.u32(self.flags.0);
        w.f32s("actions", &c.actions, MAX_HORIZON * MAX_DIM)?;
        w.f32(self.encode_ms);
        w.f32(self.queue_ms);
        Ok(())
    }
}

/// Brings the bytes of a sample to the gate at `tick`, and counts them there whatever they are.
///
/// `encoding` is the encoding that the sample came with, `application/cdr;policy_msgs/msg/ActionChunk`.
/// Takes no memory. [`ActionChunkMsg::decode`] says in words what is wrong with malformed bytes.
pub fn offer(gate: &mut Gate, encoding: &str, bytes: &[u8], tick: u64) -> Verdict {
    if encoding != ACTION_CHUNK.encoding {
        return gate.refuse(Reason::WrongSchema);
    }
    match parse(bytes) {
        Ok(parts) => gate.offer(&parts.view, tick),
        Err(_) => gate.refuse(Reason::Malformed),
    }
}

/// A message whose text and values still lie in the received bytes. Values may be NaN.
#[derive(Clone, Copy)]
struct Parts<'a> {
    stamp: Time,
    frame_id: &'a str,
    obs_stamp: Time,
    episode: u32,
    t0: Time,
    dt: Duration,
    prefix_len: u16,
    nfe: u16,
    infer_ms: f32,
    seed: u64,
    flags: Flags,
    encode_ms: f32,
    queue_ms: f32,
    view: ChunkView<'a>,
}

fn parse(bytes: &[u8]) -> CdrResult<Parts<'_>> {
    let r = &mut Reader::new(bytes)?;
    let stamp = Time::read(r, "header.stamp")?;
    let frame_id = r.string("header.frame_id")?;
    let session = r.u64("session")?;
    let epoch = r.u64("epoch")?;
    let seq = r.u64("seq")?;
    let obs_seq = r.u64("obs_seq")?;
    let obs_tick = r.u64("obs_tick")?;
    let obs_stamp = Time::read(r, "obs_stamp")?;
    let episode = r.u32("episode")?;
    let t0 = Time::read(r, "t0")?;
    let dt = read_dt(r)?;
    let horizon = r.u16("horizon")?.into();
    let dim = r.u16("dim")?.into();
    let prefix_len = r.u16("prefix_len")?;
    let nfe = r.u16("nfe")?;
    let infer_ms = r.f32("infer_ms")?;
    let seed = r.u64("seed")?;
    let flags = Flags(r.u32("flags")?);
    let values = Values::LittleEndian(r.raw_f32s("actions", MAX_HORIZON * MAX_DIM)?);
    check_shape(horizon, dim, prefix_len.into(), values.len())?;
    let (encode_ms, queue_ms) =
        if r.is_done() { (0.0, 0.0) } else { (r.f32("encode_ms")?, r.f32("queue_ms")?) };
    let view = ChunkView { session, epoch, seq, obs_seq, obs_tick, horizon, dim, values };
    Ok(Parts {
        stamp,
        frame_id,
        obs_stamp,
        episode,
        t0,
        dt,
        prefix_len,
        nfe,
        infer_ms,
        seed,
        flags,
        encode_ms,
        queue_ms,
        view,
    })
}

fn read_dt(r: &mut Reader<'_>) -> CdrResult<Duration> {
    let time = Time::read(r, "dt")?;
    match u64::try_from(time.sec) {
        Ok(secs) if time.nanosec < 1_000_000_000 => Ok(Duration::new(secs, time.nanosec)),
        _ => out_of_range("dt"),
    }
}

fn check_shape(horizon: usize, dim: usize, prefix_len: usize, values: usize) -> CdrResult<()> {
    if !(1..=MAX_HORIZON).contains(&horizon) {
        return out_of_range("horizon");
    }
    if !(1..=MAX_DIM).contains(&dim) {
        return out_of_range("dim");
    }
    if prefix_len > horizon {
        return out_of_range("prefix_len");
    }
    if horizon * dim == values { Ok(()) } else { mismatch("actions", horizon * dim, values) }
}
