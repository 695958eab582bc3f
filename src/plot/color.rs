//! Colours that stay apart for colour-blind eyes, and ramps whose lightness runs one way.
//!
//! The palette is that of Okabe and Ito (Color Universal Design, 2008), without its yellow, which
//! cannot be read on white.

/// Red, green, blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Color(pub u8, pub u8, pub u8);

impl Color {
    /// First of the palette.
    pub const BLUE: Self = Self(0, 114, 178);
    /// Second: a red orange.
    pub const VERMILION: Self = Self(213, 94, 0);
    /// Third: a bluish green.
    pub const GREEN: Self = Self(0, 158, 115);
    /// Fourth: a reddish purple.
    pub const PURPLE: Self = Self(204, 121, 167);
    /// Fifth.
    pub const AMBER: Self = Self(230, 159, 0);
    /// Sixth.
    pub const SKY: Self = Self(86, 180, 233);
    /// Seventh, and the colour of letters.
    pub const INK: Self = Self(31, 41, 55);
    /// Of things that matter less.
    pub const GREY: Self = Self(140, 146, 156);

    /// All colours of the palette, in the order in which layers take them.
    pub const PALETTE: [Self; 7] =
        [Self::BLUE, Self::VERMILION, Self::GREEN, Self::PURPLE, Self::AMBER, Self::SKY, Self::INK];

    /// Of an order, such as time: dark blue at 0, through a dull rose, light amber at 1.
    pub fn ramp(share: f64) -> Self {
        between(
            &[Self(16, 45, 108), Self(106, 83, 140), Self(205, 104, 98), Self(244, 178, 62)],
            share,
        )
    }

    /// Of an amount: white at 0, dark blue at 1.
    pub fn amount(share: f64) -> Self {
        let stops = [
            Self(255, 255, 255),
            Self(208, 226, 242),
            Self(134, 182, 219),
            Self(57, 124, 184),
            Self(12, 62, 122),
        ];
        between(&stops, share)
    }

    /// Mixed with white; 0 leaves it as it is.
    pub fn pale(self, share: f64) -> Self {
        between(&[self, Self(255, 255, 255)], share)
    }
}

fn between(stops: &[Color], share: f64) -> Color {
    let place = share.clamp(0.0, 1.0) * (stops.len() - 1) as f64;
    let first = (place.floor() as usize).min(stops.len() - 2);
    let (a, b, w) = (stops[first], stops[first + 1], place - first as f64);
    let mix = |a: u8, b: u8| (f64::from(a) * (1.0 - w) + f64::from(b) * w).round() as u8;
    Color(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lightness(Color(r, g, b): Color) -> f64 {
        0.2126 * f64::from(r) + 0.7152 * f64::from(g) + 0.0722 * f64::from(b)
    }

    #[test]
    fn the_lightness_of_ramps_runs_one_way() {
        for i in 0..100 {
            let (a, b) = (f64::from(i) / 100.0, f64::from(i + 1) / 100.0);
            assert!(lightness(Color::ramp(b)) > lightness(Color::ramp(a)));
            assert!(lightness(Color::amount(b)) < lightness(Color::amount(a)));
        }
        assert_eq!(Color::amount(-1.0), Color(255, 255, 255));
        assert_eq!(Color::ramp(2.0), Color(244, 178, 62));
        assert_eq!(Color::BLUE.pale(0.0), Color::BLUE);
    }
}
