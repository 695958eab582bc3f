//! The messages as the `.msg` files have them, except `ActionChunk`: see [`super::ActionChunkMsg`].

use std::time::{SystemTime, UNIX_EPOCH};

use super::cdr::{CdrResult, Reader, Writer, mismatch, out_of_range};
use super::{MAX_IMAGE, MAX_IMAGES};
use crate::Result;
use crate::action::{Executing, MAX_DIM, MAX_HORIZON};

/// `builtin_interfaces/Time`: time since the Unix epoch. Informative: logged, never used to decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds.
    pub sec: i32,
    /// Nanoseconds within the second.
    pub nanosec: u32,
}

impl Time {
    /// From nanoseconds since the Unix epoch; ends at the year 2038, as the message does.
    pub fn from_ns(ns: i64) -> Self {
        let second = 1_000_000_000;
        match i32::try_from(ns.div_euclid(second)) {
            Ok(sec) => Self { sec, nanosec: ns.rem_euclid(second) as u32 },
            Err(_) if ns < 0 => Self { sec: i32::MIN, nanosec: 0 },
            Err(_) => Self { sec: i32::MAX, nanosec: 999_999_999 },
        }
    }

    /// Nanoseconds since the Unix epoch.
    pub fn as_ns(self) -> i64 {
        i64::from(self.sec) * 1_000_000_000 + i64::from(self.nanosec)
    }

    /// The wall clock, for stamps.
    #[allow(clippy::disallowed_methods, reason = "the one place where wire stamps come from")]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_ns(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    pub(super) fn read(r: &mut Reader<'_>, field: &'static str) -> CdrResult<Self> {
        Ok(Self { sec: r.i32(field)?, nanosec: r.u32(field)? })
    }

    pub(super) fn write(self, w: &mut Writer) {
        w.i32(self.sec);
        w.u32(self.nanosec);
    }
}

/// `std_msgs/Header`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// When.
    pub stamp: Time,
    /// Coordinate frame, or who produced it.
    pub frame_id: String,
}

impl Header {
    pub(super) fn read(r: &mut Reader<'_>) -> CdrResult<Self> {
        let stamp = Time::read(r, "header.stamp")?;
        Ok(Self { stamp, frame_id: r.string("header.frame_id")?.to_owned() })
    }

    pub(super) fn write(&self, w: &mut Writer) -> CdrResult<()> {
        self.stamp.write(w);
        w.string("header.frame_id", &self.frame_id)
    }
}

/// `policy_msgs/CameraImage`: one camera's picture inside an observation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CameraImage {
    /// LeRobot's `<cam>` of `observation.images.<cam>`.
    pub name: String,
    /// `rgb8`, `jpeg` or `png`.
    pub encoding: String,
    /// Rows.
    pub height: u16,
    /// Columns.
    pub width: u16,
    /// For `rgb8` u8 `[height, width, 3]`, rows from the top; else the file.
    pub data: Vec<u8>,
}

impl CameraImage {
    fn read(r: &mut Reader<'_>) -> CdrResult<Self> {
        let name = r.string("images.name")?;
        let encoding = r.string("images.encoding")?;
        let (height, width) = (r.u16("images.height")?, r.u16("images.width")?);
        let data = r.bytes("images.data", MAX_IMAGE)?;
        check_size(encoding, height, width, data)?;
        let (name, encoding) = (name.to_owned(), encoding.to_owned());
        Ok(Self { name, encoding, height, width, data: data.to_owned() })
    }

    fn write(&self, w: &mut Writer) -> CdrResult<()> {
        check_size(&self.encoding, self.height, self.width, &self.data)?;
        w.string("images.name", &self.name)?;
        w.string("images.encoding", &self.encoding)?;
        w.u16(self.height);
        w.u16(self.width);
        w.bytes("images.data", &self.data, MAX_IMAGE)
    }
}

fn check_size(encoding: &str, height: u16, width: u16, data: &[u8]) -> CdrResult<()> {
    let want = usize::from(height) * usize::from(width) * 3;
    if encoding == "rgb8" && data.len() != want {
        return mismatch("images.data", want, data.len());
    }
    Ok(())
}

/// Whether an observation asks for a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asks {
    /// The policy's own rule decides: nothing is played, or `n_action_steps` rows were.
    #[default]
    ByRule,
    /// A chunk, please.
    Chunk,
    /// No chunk.
    Nothing,
}

impl Asks {
    fn read(r: &mut Reader<'_>) -> CdrResult<Self> {
        match r.u8("request")? {
            0 => Ok(Self::ByRule),
            1 => Ok(Self::Chunk),
            2 => Ok(Self::Nothing),
            _ => out_of_range("request"),
        }
    }

    fn write(self, w: &mut Writer) {
        w.u8(match self {
            Self::ByRule => 0,
            Self::Chunk => 1,
            Self::Nothing => 2,
        });
    }
}

/// `policy_msgs/Observation`: what the robot saw at one of its ticks.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Time of capture; informative.
    pub header: Header,
    /// Nonce of this run of the robot, drawn at its start.
    pub session: u64,
    /// The robot's own tick.
    pub tick: u64,
    /// Counts observations, from 1.
    pub seq: u64,
    /// Counts episodes.
    pub episode: u32,
    /// Tick within the episode.
    pub step: u32,
    /// The task in words, empty if there is only one.
    pub task: String,
    /// `observation.state`, finite, robot units; at most [`MAX_DIM`] values.
    pub state: Vec<f32>,
    /// `observation.environment_state`, likewise.
    pub environment_state: Vec<f32>,
    /// `observation.images.<name>`.
    pub images: Vec<CameraImage>,
    /// Chunk whose row belongs to this tick; 0 for none.
    pub executing_chunk: u64,
    /// That row; -1 for none.
    pub executing_index: i32,
    /// Whether a chunk is asked for.
    pub request: Asks,
    /// Rows that the robot expects to play before the answer is there.
    pub expected_delay: u16,
    /// What is still to be played, row-major `[n, dim]` in robot units; row 0 is this tick's. Finite.
    pub left_over: Vec<f32>,
}

impl Default for Observation {
    /// Empty, and executing nothing.
    fn default() -> Self {
        Self {
            header: Header::default(),
            session: 0,
            tick: 0,
            seq: 0,
            episode: 0,
            step: 0,
            task: String::new(),
            state: Vec::new(),
            environment_state: Vec::new(),
            images: Vec::new(),
            executing_chunk: Executing::NOTHING.chunk_seq,
            executing_index: Executing::NOTHING.index,
            request: Asks::default(),
            expected_delay: 0,
            left_over: Vec::new(),
        }
    }
}

impl Observation {
    /// CDR bytes.
    ///
    /// # Errors
    /// [`crate::Error::Wire`] if a list or string is too long, or an `rgb8` picture not of its own
    /// size; [`crate::Error::Rejected`] if a value is not finite.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let pictures: usize = self.images.iter().map(|i| i.data.len() + i.name.len() + 64).sum();
        let numbers = 4 * (self.state.len() + self.environment_state.len() + self.left_over.len());
        let strings = self.header.frame_id.len() + self.task.len();
        let mut w = Writer::new(128 + strings + numbers + pictures);
        self.write(&mut w)?;
        Ok(w.finish()?)
    }

    /// From CDR bytes; bytes after the last field are skipped. A message that ends before
    /// [`request`](Self::request) is an older writer's, who asks by the rule and says no more.
    ///
    /// # Errors
    /// [`crate::Error::Wire`] if the bytes are cut short, a length exceeds its cap, a string is not
    /// UTF-8, `request` has no meaning, or an `rgb8` picture is not of its own size; [`crate::Error::Rejected`] if a value is
    /// not finite.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Ok(Self::read(&mut Reader::new(bytes)?)?)
    }

    fn write(&self, w: &mut Writer) -> CdrResult<()> {
        self.header.write(w)?;
        w.u64(self.session);
        w.u64(self.tick);
        w.u64(self.seq);
        w.u32(self.episode);
        w.u32(self.step);
        w.string("task", &self.task)?;
        w.f32s("state", &self.state, MAX_DIM)?;
        w.f32s("environment_state", &self.environment_state, MAX_DIM)?;
        w.len("images", self.images.len(), MAX_IMAGES)?;
        for image in &self.images {
            image.write(w)?;
        }
        w.u64(self.executing_chunk);
        w.i32(self.executing_index);
        self.request.write(w);
        w.u16(self.expected_delay);
        w.f32s("left_over", &self.left_over, MAX_HORIZON * MAX_DIM)
    }

    fn read(r: &mut Reader<'_>) -> CdrResult<Self> {
        let mut observation = Self {
            header: Header::read(r)?,
            session: r.u64("session")?,
            tick: r.u64("tick")?,
            seq: r.u64("seq")?,
            episode: r.u32("episode")?,
            step: r.u32("step")?,
            task: r.string("task")?.to_owned(),
            state: r.f32s("state", MAX_DIM)?,
            environment_state: r.f32s("environment_state", MAX_DIM)?,
            images: {
                let n = r.len("images", MAX_IMAGES)?;
                (0..n).map(|_| CameraImage::read(r)).collect::<CdrResult<_>>()?
            },
            executing_chunk: r.u64("executing_chunk")?,
            executing_index: r.i32("executing_index")?,
            ..Self::default()
        };
        if !r.is_done() {
            observation.request = Asks::read(r)?;
            observation.expected_delay = r.u16("expected_delay")?;
            observation.left_over = r.f32s("left_over", MAX_HORIZON * MAX_DIM)?;
        }
        Ok(observation)
    }
}

/// `policy_msgs/Action`: what the robot commanded at one tick.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Action {
    /// When; informative.
    pub stamp: Time,
    /// The robot's tick.
    pub tick: u64,
    /// Chunk that it came from; 0 for a hold.
    pub chunk_seq: u64,
    /// Row of that chunk; -1 for a hold.
    pub index: i32,
    /// `[dim]`, finite, robot units.
    pub action: Vec<f32>,
}

impl Action {
    /// CDR bytes.
    ///
    /// # Errors
    /// [`crate::Error::Wire`] if there are more than [`MAX_DIM`] values; [`crate::Error::Rejected`] if
    /// one is not finite.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut w = Writer::new(40 + 4 * self.action.len());
        self.stamp.write(&mut w);
        w.u64(self.tick);
        w.u64(self.chunk_seq);
        w.i32(self.index);
        w.f32s("action", &self.action, MAX_DIM)?;
        Ok(w.finish()?)
    }

    /// From CDR bytes; bytes after the last field are skipped.
    ///
    /// # Errors
    /// [`crate::Error::Wire`] if the bytes are cut short, or there are too many values;
    /// [`crate::Error::Rejected`] if one is not finite.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes)?;
        Ok(Self {
            stamp: Time::read(&mut r, "stamp")?,
            tick: r.u64("tick")?,
            chunk_seq: r.u64("chunk_seq")?,
            index: r.i32("index")?,
            action: r.f32s("action", MAX_DIM)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_round_trips_and_saturates() {
        for ns in [0, 1, 999_999_999, 1_000_000_000, -1, -1_000_000_001, 1_795_500_000_123_456_789]
        {
            let time = Time::from_ns(ns);
            assert!(time.nanosec < 1_000_000_000, "{time:?}");
            assert_eq!(time.as_ns(), ns);
        }
        assert_eq!(Time::from_ns(i64::MAX).sec, i32::MAX);
        assert_eq!(Time::from_ns(i64::MIN).sec, i32::MIN);
        let extreme = Time { sec: i32::MIN, nanosec: u32::MAX };
        assert_eq!(extreme.as_ns(), -2_147_483_648_000_000_000 + 4_294_967_295);
    }

    #[test]
    fn a_picture_is_as_large_as_it_says() {
        let image = CameraImage {
            name: "top".into(),
            encoding: "rgb8".into(),
            height: 2,
            width: 3,
            data: vec![7; 18],
        };
        let mut observation = Observation { images: vec![image], ..Observation::default() };
        let bytes = observation.encode().unwrap();
        assert_eq!(Observation::decode(&bytes).unwrap(), observation);
        observation.images[0].data.pop();
        let error = observation.encode().unwrap_err().to_string();
        assert_eq!(error, "wire: images.data: expected 18, got 17");
        observation.images[0].encoding = "png".into();
        assert!(observation.encode().is_ok(), "a file is as long as it is");
    }

    /// Bytes of the fields that an older writer does not know, of an observation without left-over:
    /// request, padding, delay, length.
    const NEW_FIELDS: usize = 8;

    #[test]
    fn a_request_travels_and_an_older_message_is_read() {
        let asking = Observation {
            state: vec![1.0, 2.0],
            request: Asks::Chunk,
            expected_delay: 300,
            left_over: vec![0.5, -1.5, 3.0, f32::MIN],
            ..Observation::default()
        };
        assert_eq!(Observation::decode(&asking.encode().unwrap()).unwrap(), asking);
        let plain = Observation { state: vec![1.0, 2.0], ..Observation::default() };
        let bytes = plain.encode().unwrap();
        let old = bytes.len() - NEW_FIELDS;
        assert_eq!(Observation::decode(&bytes[..old]).unwrap(), plain, "defaults for the absent");
        for n in (0..bytes.len()).filter(|n| *n != old) {
            assert!(Observation::decode(&bytes[..n]).is_err(), "cut at {n} of {}", bytes.len());
        }
        let mut bad = bytes.clone();
        bad[old] = 3;
        let error = Observation::decode(&bad).unwrap_err().to_string();
        assert_eq!(error, "wire: request: the value is out of range");
        bad[old] = 2;
        assert_eq!(Observation::decode(&bad).unwrap().request, Asks::Nothing);
    }

    #[test]
    fn a_left_over_is_bounded_and_finite() {
        let with = |left_over| Observation { left_over, ..Observation::default() };
        let most = MAX_HORIZON * MAX_DIM;
        let fits = with(vec![0.0; most]);
        assert_eq!(Observation::decode(&fits.encode().unwrap()).unwrap(), fits);
        let error = with(vec![0.0; most + 1]).encode().unwrap_err().to_string();
        assert!(error.contains("left_over") && error.contains("at most 262144"), "{error}");
        let nan = with(vec![0.0, f32::NAN]).encode().unwrap_err();
        assert!(matches!(nan, crate::Error::Rejected { .. }), "{nan}");
        // What a writer that does not check would send.
        let mut bytes = with(vec![1.0; 2]).encode().unwrap();
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&f32::INFINITY.to_le_bytes());
        let error = Observation::decode(&bytes).unwrap_err();
        assert!(matches!(error, crate::Error::Rejected { .. }), "{error}");
        // A length without the memory behind it.
        let mut bytes = Observation::default().encode().unwrap();
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Observation::decode(&bytes).unwrap_err().to_string().contains("left_over"));
    }

    #[test]
    fn nothing_is_sent_that_a_reader_refuses() {
        let nan = Observation { state: vec![0.0, f32::NAN], ..Observation::default() };
        assert!(nan.encode().unwrap_err().to_string().contains("state: expected finite"));
        let long = Observation { environment_state: vec![0.0; 257], ..Observation::default() };
        assert!(long.encode().unwrap_err().to_string().contains("at most 256, got 257"));
        let text = Observation { task: "x".repeat(4097), ..Observation::default() };
        assert!(text.encode().is_err());
        let fits = Observation { task: "x".repeat(4096), ..Observation::default() };
        assert_eq!(Observation::decode(&fits.encode().unwrap()).unwrap(), fits);
        let many = Observation { images: vec![CameraImage::default(); 17], ..fits };
        assert!(many.encode().is_err());
        let inf = Action { action: vec![f32::INFINITY], ..Action::default() };
        assert!(matches!(inf.encode(), Err(crate::Error::Rejected { .. })));
    }
}
