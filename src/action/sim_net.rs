//! A network in memory, seeded: it loses, doubles, delays and so reorders what it carries, and may
//! be cut for a while.

/// SplitMix64.
#[derive(Clone, Debug)]
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..n`.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Uniform in `[0, 1)`.
    pub(super) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    pub(super) fn chance(&mut self, p: f32) -> bool {
        self.unit() < p
    }
}

/// What the network does to a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    pub(super) loss: f32,
    pub(super) double: f32,
    /// Longest delay, ticks.
    pub(super) delay: u64,
}

impl Weather {
    pub(super) const CLEAR: Self = Self { loss: 0.0, double: 0.0, delay: 0 };

    pub(super) fn random(rng: &mut Rng) -> Self {
        let loss = [0.0, 0.0, 0.1, 0.5, 0.9][rng.below(5) as usize];
        let double = [0.0, 0.2, 0.5][rng.below(3) as usize];
        Self { loss, double, delay: rng.below(9) }
    }
}

/// Packets on their way.
#[derive(Debug)]
pub(super) struct SimNet<P> {
    weather: Weather,
    /// Tick of arrival, packet.
    queue: Vec<(u64, P)>,
    /// Until when nothing passes, and whether what is sent meanwhile comes after it or never.
    cut: (u64, bool),
}

impl<P: Clone> SimNet<P> {
    pub(super) fn new(weather: Weather) -> Self {
        Self { weather, queue: Vec::new(), cut: (0, false) }
    }

    /// Nothing passes before `until`. What is sent meanwhile is lost, or `kept` for afterwards.
    pub(super) fn cut(&mut self, until: u64, kept: bool) {
        self.cut = (until, kept);
    }

    pub(super) fn send(&mut self, now: u64, packet: &P, rng: &mut Rng) {
        let (until, kept) = self.cut;
        if now < until && !kept {
            return;
        }
        let copies = if rng.chance(self.weather.double) { 2 } else { 1 };
        for _ in 0..copies {
            if !rng.chance(self.weather.loss) {
                let delay = rng.below(self.weather.delay + 1);
                self.queue.push((now + delay, packet.clone()));
            }
        }
    }

    /// What has arrived by `now`, in an order of chance.
    pub(super) fn arrived(&mut self, now: u64, rng: &mut Rng) -> Vec<P> {
        let mut out = Vec::new();
        if now < self.cut.0 {
            return out;
        }
        let mut i = 0;
        while i < self.queue.len() {
            if self.queue[i].0 <= now {
                out.push(self.queue.swap_remove(i).1);
            } else {
                i += 1;
            }
        }
        for i in 1..out.len() {
            out.swap(i, rng.below(i as u64 + 1) as usize);
        }
        out
    }
}
