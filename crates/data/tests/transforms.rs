//! Every option of `transform_param`, on images small enough to check by hand.

use sparknet_data::{ColorMode, DataError, MeanImage, TransformSpec, Transformer, Values, decode_image};

const SHAPE: [usize; 3] = [2, 2, 3];
const IMAGE: [u8; 12] = [1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16];

fn transform(spec: TransformSpec, is_train: bool, record: u64) -> Vec<f32> {
    let transformer = Transformer::new(spec, is_train, 1).unwrap();
    let mut output = vec![f32::NAN; transformer.output_shape(SHAPE).unwrap().iter().product()];
    transformer
        .apply(SHAPE, Values::Bytes(&IMAGE), record, &mut output)
        .unwrap();
    output
}

fn message(spec: TransformSpec) -> String {
    match Transformer::new(spec, true, 1) {
        Ok(transformer) => transformer.output_shape(SHAPE).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn nothing_to_do_copies() {
    assert_eq!(transform(TransformSpec::default(), true, 0), IMAGE.map(f32::from));
}

#[test]
fn floats_are_transformed_as_bytes_are() {
    let spec = TransformSpec {
        scale: 2.0,
        mean_values: vec![1.0],
        ..TransformSpec::default()
    };
    let transformer = Transformer::new(spec, true, 1).unwrap();
    let mut output = [0.0; 3];
    transformer
        .apply([1, 1, 3], Values::Floats(&[0.5, 1.0, -4.0]), 0, &mut output)
        .unwrap();
    assert_eq!(output, [-1.0, 0.0, -10.0]);
}

#[test]
fn scale_multiplies_after_the_mean() {
    let spec = TransformSpec {
        scale: 0.5,
        mean_values: vec![3.0],
        ..TransformSpec::default()
    };
    assert_eq!(transform(spec, true, 0), IMAGE.map(|x| (f32::from(x) - 3.0) * 0.5));
    let spec = TransformSpec {
        mean_values: vec![1.0, 10.0],
        ..TransformSpec::default()
    };
    assert_eq!(
        transform(spec, true, 0),
        [0., 1., 2., 3., 4., 5., 1., 2., 3., 4., 5., 6.]
    );
}

#[test]
fn test_crops_the_centre() {
    let transformer = Transformer::new(
        TransformSpec {
            crop_size: 2,
            ..TransformSpec::default()
        },
        false,
        1,
    )
    .unwrap();
    assert_eq!(transformer.output_shape([1, 4, 5]).unwrap(), [1, 2, 2]);
    let image: Vec<u8> = (0..20).collect();
    let mut output = [0.0; 4];
    transformer
        .apply([1, 4, 5], Values::Bytes(&image), 0, &mut output)
        .unwrap();
    // Row (4 - 2) / 2 = 1, column (5 - 2) / 2 = 1 (rounded down, as in Caffe).
    assert_eq!(output, [6.0, 7.0, 11.0, 12.0]);
}

#[test]
fn train_crops_every_place_about_equally_often() {
    let spec = TransformSpec {
        crop_size: 1,
        ..TransformSpec::default()
    };
    let mut counts = [0; 6];
    for record in 0..6000 {
        let output = transform(spec.clone(), true, record);
        assert_eq!(output[1], output[0] + 10.0, "both channels are cropped at one place");
        counts[output[0] as usize - 1] += 1;
    }
    assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
}

#[test]
fn mirror_turns_about_half_of_the_records_in_both_phases() {
    for is_train in [true, false] {
        let mut mirrored = 0;
        for record in 0..1000 {
            let output = transform(
                TransformSpec {
                    mirror: true,
                    ..TransformSpec::default()
                },
                is_train,
                record,
            );
            if output != IMAGE.map(f32::from) {
                assert_eq!(output, [3., 2., 1., 6., 5., 4., 13., 12., 11., 16., 15., 14.]);
                mirrored += 1;
            }
        }
        assert!((420..580).contains(&mirrored), "{mirrored}");
    }
}

#[test]
fn a_mean_image_is_cropped_and_mirrored_with_the_record() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mean.binaryproto");
    MeanImage {
        shape: SHAPE,
        values: IMAGE.map(f32::from).to_vec(),
    }
    .write(&file)
    .unwrap();
    let spec = TransformSpec {
        crop_size: 1,
        mirror: true,
        mean_file: Some(file.clone()),
        scale: 3.0,
        ..TransformSpec::default()
    };
    for record in 0..50 {
        assert_eq!(transform(spec.clone(), true, record), [0.0, 0.0]);
    }
    // Not the same as its mirror image, so that a wrongly mirrored mean shows.
    let spec = TransformSpec { crop_size: 0, ..spec };
    for record in 0..50 {
        assert_eq!(transform(spec.clone(), true, record), [0.0; 12]);
    }
    let transformer = Transformer::new(spec, true, 1).unwrap();
    let expected = format!(
        "mean file {}: it is 2x2x3, but a record is 2x3x3 before cropping: make it from this data with `sparknet mean`",
        file.display()
    );
    assert_eq!(transformer.output_shape([2, 3, 3]).unwrap_err().to_string(), expected);
}

#[test]
fn random_choices_depend_on_seed_and_record_only() {
    let spec = TransformSpec {
        crop_size: 1,
        ..TransformSpec::default()
    };
    let stream = |seed| -> Vec<f32> {
        let transformer = Transformer::new(spec.clone(), true, seed).unwrap();
        let mut output = [0.0; 2];
        let values = (0..200).map(|record| {
            transformer
                .apply(SHAPE, Values::Bytes(&IMAGE), record, &mut output)
                .unwrap();
            output[0]
        });
        values.collect()
    };
    assert_eq!(stream(1), stream(1));
    assert_ne!(stream(1), stream(2));
}

#[test]
fn impossible_options_are_told() {
    let spec = TransformSpec {
        mean_file: Some("m".into()),
        mean_values: vec![1.0],
        ..TransformSpec::default()
    };
    assert_eq!(
        message(spec),
        "transform_param: mean_file and mean_value exclude each other: remove one"
    );
    let spec = TransformSpec {
        force_color: true,
        force_gray: true,
        ..TransformSpec::default()
    };
    assert_eq!(
        message(spec),
        "transform_param: force_color and force_gray exclude each other: remove one"
    );
    let spec = TransformSpec {
        crop_size: 3,
        ..TransformSpec::default()
    };
    let expected = "transform_param: crop_size 3 is larger than a record of 2x2x3: make it smaller, or the records larger \
                    with `sparknet convert --resize-height … --resize-width …`";
    assert_eq!(message(spec), expected);
    let spec = TransformSpec {
        mean_values: vec![1.0; 3],
        ..TransformSpec::default()
    };
    let expected =
        "transform_param: there are 3 times mean_value, but a record has 2 channels: give one, or one a channel";
    assert_eq!(message(spec), expected);
    let spec = TransformSpec {
        mean_file: Some("no/such.file".into()),
        ..TransformSpec::default()
    };
    assert!(matches!(Transformer::new(spec, true, 1), Err(DataError::Missing(_))));
}

#[test]
fn bad_mean_files_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mean.binaryproto");
    let read = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        MeanImage::read(&file).unwrap_err().to_string()
    };
    assert!(read(&[0xff; 9]).contains("it is not a binary BlobProto ("));
    // num: 1 channels: 1 height: 1 width: 2 and one value.
    let short = [8, 1, 16, 1, 24, 1, 32, 2, 42, 4, 0, 0, 0, 0];
    assert!(read(&short).contains("it has the shape [1, 1, 1, 2] and 1 values, which is no single image"));
    assert!(read(&[]).contains("which is no single image"));
}

fn png(image: image::DynamicImage) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[test]
fn png_is_decoded_to_planes_in_bgr_order() {
    let colour = png(image::RgbImage::from_raw(2, 1, vec![200, 100, 50, 1, 2, 3])
        .unwrap()
        .into());
    let decode = |mode| decode_image(&colour, mode).unwrap();
    assert_eq!(decode(ColorMode::Native).shape, [3, 1, 2]);
    assert_eq!(decode(ColorMode::Native).bytes, [50, 3, 100, 2, 200, 1]);
    assert_eq!(decode(ColorMode::Color), decode(ColorMode::Native));
    // 0.299 · 200 + 0.587 · 100 + 0.114 · 50 = 124.2 and 1.8.
    assert_eq!(decode(ColorMode::Gray).bytes, [124, 2]);
    assert_eq!(decode(ColorMode::Gray).shape, [1, 1, 2]);
}

#[test]
fn gray_and_alpha_png_keep_their_channels_unless_forced() {
    let gray = png(image::GrayImage::from_raw(2, 1, vec![7, 9]).unwrap().into());
    assert_eq!(decode_image(&gray, ColorMode::Native).unwrap().bytes, [7, 9]);
    assert_eq!(decode_image(&gray, ColorMode::Gray).unwrap().bytes, [7, 9]);
    assert_eq!(decode_image(&gray, ColorMode::Color).unwrap().bytes, [7, 9, 7, 9, 7, 9]);
    let alpha = png(image::RgbaImage::from_raw(1, 1, vec![1, 2, 3, 4]).unwrap().into());
    let native = decode_image(&alpha, ColorMode::Native).unwrap();
    assert_eq!((native.shape, native.bytes), ([4, 1, 1], vec![3, 2, 1, 4]));
    assert_eq!(decode_image(&alpha, ColorMode::Color).unwrap().bytes, [3, 2, 1]);
    let deep = png(image::DynamicImage::new_rgb16(1, 1));
    assert!(
        decode_image(&deep, ColorMode::Native)
            .unwrap_err()
            .starts_with("has 16 bits a channel")
    );
    assert_eq!(decode_image(&deep, ColorMode::Color).unwrap().shape, [3, 1, 1]);
}

#[test]
fn undecodable_images_are_errors() {
    assert!(
        decode_image(b"GIF89a", ColorMode::Native)
            .unwrap_err()
            .starts_with("is neither a JPEG nor a PNG")
    );
    assert!(decode_image(&[], ColorMode::Native).is_err());
    let whole = png(image::DynamicImage::new_rgb8(9, 9));
    for length in 8..whole.len() - 13 {
        assert!(
            decode_image(&whole[..length], ColorMode::Native)
                .unwrap_err()
                .starts_with("cannot be decoded (")
        );
    }
}
