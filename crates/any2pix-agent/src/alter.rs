//! What a plan's look does to one object: another colour, another size.

use image::RgbaImage;

use crate::outcome::Rect;

/// Colours by name, with their hue in degrees; grey has none.
const COLOURS: [(&str, Option<f32>); 8] = [
    ("red", Some(0.0)),
    ("orange", Some(28.0)),
    ("yellow", Some(52.0)),
    ("green", Some(120.0)),
    ("blue", Some(220.0)),
    ("purple", Some(280.0)),
    ("pink", Some(325.0)),
    ("gray", None),
];

/// A cut-out in the colour of that name, shading kept; `None` when no such colour is known.
pub fn recoloured(cut: &RgbaImage, colour: &str) -> Option<RgbaImage> {
    let (_, hue) = COLOURS.iter().find(|(name, _)| name.eq_ignore_ascii_case(colour.trim()))?;
    let mut result = cut.clone();
    for pixel in result.pixels_mut() {
        let [r, g, b] = [pixel.0[0], pixel.0[1], pixel.0[2]].map(|c| f32::from(c) / 255.0);
        let grey = 0.299 * r + 0.587 * g + 0.114 * b;
        let new = match hue {
            Some(hue) => hsv(*hue, (0.85 * (1.15 - grey)).clamp(0.25, 0.9), 0.25 + 0.75 * grey),
            None => [grey; 3],
        };
        for (value, new) in pixel.0.iter_mut().zip(new) {
            *value = crate::planes::to_byte(new);
        }
    }
    Some(result)
}

/// Hue in degrees, saturation and value to red, green and blue.
fn hsv(hue: f32, saturation: f32, value: f32) -> [f32; 3] {
    // Each channel is a trapezoid over the circle, a third of it behind the one before.
    let channel = |offset: f32| {
        let k = (offset + hue / 60.0).rem_euclid(6.0);
        value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0)
    };
    [channel(5.0), channel(3.0), channel(1.0)]
}

/// Where an object of `rect` stands when it is `larger` or `smaller`: on the same ground, inside
/// a picture of `size`. Any other look keeps it.
pub fn resized(rect: Rect, look: &str, (width, height): (u32, u32)) -> Rect {
    let factor: f32 = match look.trim().to_ascii_lowercase().as_str() {
        "larger" => 1.5,
        "smaller" => 0.6,
        _ => 1.0,
    };
    let most = (width as f32 / rect.width as f32).min(height as f32 / rect.height as f32);
    let scale = |length: u32| ((length as f32 * factor.min(most)).round() as u32).max(1);
    let (w, h) = (scale(rect.width).min(width), scale(rect.height).min(height));
    let middle = i64::from(rect.x) + i64::from(rect.width) / 2;
    let feet = i64::from(rect.y) + i64::from(rect.height);
    Rect {
        x: (middle - i64::from(w) / 2).clamp(0, i64::from(width - w)) as u32,
        y: (feet - i64::from(h)).clamp(0, i64::from(height - h)) as u32,
        width: w,
        height: h,
    }
}

#[cfg(test)]
mod tests {
    use image::Rgba;

    use super::*;

    #[test]
    fn a_recoloured_cut_out_has_the_colour_and_keeps_its_shading() {
        let cut = RgbaImage::from_fn(2, 1, |x, _| Rgba([60 + 120 * x as u8, 60, 60, 200]));
        let red = recoloured(&cut, "Red").unwrap();
        let [dark, light] = [red.get_pixel(0, 0).0, red.get_pixel(1, 0).0];
        assert!(
            dark[0] > dark[1] && dark[1] == dark[2] && light[0] > dark[0],
            "{dark:?} {light:?}"
        );
        let green = recoloured(&cut, "green").unwrap().get_pixel(0, 0).0;
        assert!(green[1] > green[0] && green[0] == green[2] && green[3] == 200, "{green:?}");
        assert!(recoloured(&cut, "tartan").is_none());
    }

    #[test]
    fn a_resized_object_stands_on_its_ground_inside_the_picture() {
        let rect = Rect { x: 100, y: 100, width: 40, height: 60 };
        let larger = resized(rect, "larger", (640, 480));
        assert_eq!(larger, Rect { x: 90, y: 70, width: 60, height: 90 });
        assert_eq!(resized(rect, "smaller", (640, 480)).y + 36, 160);
        let filling = Rect { x: 0, y: 0, width: 600, height: 480 };
        let clamped = resized(filling, "larger", (640, 480));
        assert!(clamped.x + clamped.width <= 640 && clamped.height == 480, "{clamped:?}");
    }
}
