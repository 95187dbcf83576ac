"""The page in Chromium: what it makes is what the command line makes, and what people do with it works."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest

from bitsr.auto import Chooser
from bitsr.cli.main import main

Image = pytest.importorskip("PIL.Image")
rng = np.random.default_rng(7)


def scene(height: int, width: int, channels: int = 3) -> np.ndarray:
    """(height, width, channels) uint8 with slopes, edges and soft alpha."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    planes = [
        120 + 100 * np.sin((k + 1) * x / 9 + y / (7 + k)) * (x + y < width) + 20 * (k - 1)
        for k in range(channels)
    ]
    out = np.stack(planes, 2).clip(0, 255).astype(np.uint8)
    if channels in (2, 4):
        out[..., -1] = (255 * ((x - width / 2) ** 2 + (y - height / 2) ** 2 < (height / 2.5) ** 2)).astype(
            np.uint8
        )
        out[: height // 3, :, -1] = rng.integers(0, 256, (height // 3, width))
    return out


def wide_gamut() -> bytes:
    """An ICC profile of RGB that is not sRGB: its red and blue are exchanged."""
    from PIL import ImageCms

    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for i in range(128 + 4, 128 + 4 + 12 * int.from_bytes(data[128:132], "big"), 12):
        swapped = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}
        data[i : i + 4] = swapped.get(bytes(data[i : i + 4]), bytes(data[i : i + 4]))
    return bytes(data)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images of every kind that the page treats in a way of its own."""
    folder = tmp_path / "in"
    folder.mkdir()
    rgb = Image.fromarray(scene(43, 61))
    rgb.save(folder / "rgb.png")
    Image.fromarray(scene(31, 40, 1)[..., 0]).save(folder / "grey.png")
    Image.fromarray(scene(33, 37, 2), "LA").save(folder / "grey-alpha.png")
    Image.fromarray(scene(45, 52, 4)).save(folder / "alpha.png")
    palette = rgb.quantize(13)
    palette.info["transparency"] = bytes([0, 90, 200])
    palette.save(folder / "palette.png", transparency=bytes([0, 90, 200]), bits=4)
    rgb.save(folder / "wide.png", icc_profile=wide_gamut())
    rgb.save(folder / "low.jpg", quality=60)
    turned = Image.Exif()
    turned[274] = 6
    rgb.save(folder / "turned.jpg", quality=95, exif=turned)
    noisy = scene(90, 80).astype(int) // 2 + 60 + rng.normal(0, 9, (90, 80, 3)).astype(int)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / "noisy.png")
    return folder


def drop(page, files: dict[str, bytes], event: str = "drop") -> None:
    """Files dropped on the page, or pasted."""
    page.evaluate(
        """([event, files]) => {
            const data = new DataTransfer();
            for (const [name, text] of Object.entries(files))
                data.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name));
            const options = { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data };
            dispatchEvent(event === "drop" ? new DragEvent(event, options) : new ClipboardEvent(event, options));
        }""",
        [event, {name: base64.b64encode(data).decode() for name, data in files.items()}],
    )


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def scale(page, factor: int) -> None:
    page.locator(f'[name="scale"][value="{factor}"]').check()


def done(page, count: int = 1) -> None:
    page.locator('#items li[data-state="done"]').nth(count - 1).wait_for(state="attached")


def saved(page, format: str = "png") -> bytes:
    """The file that Save gives."""
    page.select_option("#format", format)
    with page.expect_download() as download:
        page.click("#save")
    return Path(download.value.path()).read_bytes()


def rgba(file: Path | bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    return np.asarray(image.convert("RGBA"))


def memory(page, gigabytes: float) -> None:
    """The device has little memory: results are made in pieces of a megapixel."""
    page.add_init_script(f"Object.defineProperty(navigator, 'deviceMemory', {{ value: {gigabytes} }})")
    page.reload()


@pytest.mark.parametrize("engine, factor", [("static", 4), ("static", 2), ("native", 3)])
def test_saved_pixels_are_those_of_the_command_line(request, visit, images, tmp_path, engine, factor):
    page = visit(request.getfixturevalue(engine).url)
    scale(page, factor)
    net = "auto"
    if factor == 3:  # the command line restores by the photo net of x4 and reduces, which the page does not
        net = "bitsr-m"
        page.select_option("#net", net)
    files = sorted(images.iterdir())
    page.set_input_files("#files", files)
    done(page, len(files))
    out, chooser = tmp_path / "out", Chooser(factor, net=None if net == "auto" else net, threads=1)
    assert (
        main(["upscale", "-i", str(images), "-o", str(out), "-s", str(factor), "-n", net, "-f", "png"]) == 0
    )
    for i, file in enumerate(files):
        page.locator("#items .open").nth(i).click()
        page.locator("#name", has_text=file.name).wait_for()
        data = saved(page)
        wanted = out / f"{file.stem}.png"
        np.testing.assert_array_equal(rgba(data), rgba(wanted), err_msg=file.name)
        kept = [Image.open(f).info.get("icc_profile") for f in (io.BytesIO(data), wanted)]
        assert kept[0] == kept[1], file.name
        (made_by,), why = chooser.pick(file)
        assert made_by.name in (detail := page.inner_text("#detail")) and why in detail, file.name


@pytest.mark.parametrize("engine", ["static", "native"])
def test_pieces_make_the_same_image_as_one(request, visit, tmp_path, engine):
    page = visit(request.getfixturevalue(engine).url)
    memory(page, 0.25)
    page.select_option("#net", "bitsr-s")
    pixels = scene(421, 301)
    (tmp_path / "a.png").write_bytes(png(pixels))
    drop(page, {"a.png": png(pixels)})
    done(page)
    data = saved(page)
    assert main(["upscale", "-i", str(tmp_path / "a.png"), "-n", "bitsr-s-x4"]) == 0
    np.testing.assert_array_equal(rgba(data), rgba(tmp_path / "a_x4.png"))


def test_formats(visit, static):
    page = visit(static.url)
    scale(page, 2)
    profile = wide_gamut()
    file = io.BytesIO()
    Image.fromarray(scene(41, 57)).save(file, "png", icc_profile=profile)
    drop(page, {"wide.png": file.getvalue(), "clear.png": png(scene(41, 57, 4))})
    done(page, 2)
    whole = rgba(saved(page)).astype(int)
    for format in ("jpeg", "webp"):
        image = Image.open(io.BytesIO(saved(page, format)))
        assert image.format.lower() == format and image.info.get("icc_profile") == profile
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - whole[..., :3]).mean() < 6
    page.locator("#items .open").nth(1).click()
    assert Image.open(io.BytesIO(saved(page, "webp"))).mode == "RGBA"
    flat = np.asarray(Image.open(io.BytesIO(saved(page, "jpeg"))))
    assert (flat[-1, -1] > 250).all()  # what is clear is white


def test_divider_zoom_and_sharpness(visit, static):
    """At actual size the canvas has the pixels of the result, on a screen of double density too."""
    page = visit(static.url, device_scale_factor=2, viewport={"width": 900, "height": 700})
    pixels = scene(180, 240)
    drop(page, {"a.png": png(pixels)})
    done(page)
    result = rgba(saved(page))
    divider = page.locator("#divider")
    box = divider.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] - 150, box["y"] + 9, steps=3)
    page.mouse.up()
    assert 5 < int(divider.get_attribute("aria-valuenow")) < 50
    divider.press("ArrowRight")
    divider.press("Home")
    assert divider.get_attribute("aria-valuenow") == "0"
    page.click("#actual")
    # not by wait_for_function, which the page's security policy refuses at its second look
    page.locator("#percent").filter(has_text=re.compile(r"^100 %$")).wait_for()
    page.focus("#frame")
    page.keyboard.press("ArrowUp")
    width, height, text = page.evaluate(
        """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
            const { width, height } = canvas;
            const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            let text = "";
            for (let i = 0; i < data.length; i += 8192) text += String.fromCharCode(...data.subarray(i, i + 8192));
            done([width, height, btoa(text)]);
        })))"""
    )
    drawn = np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)
    assert (height, width) == tuple(
        2 * round(page.locator("#canvas").bounding_box()[k]) for k in ("height", "width")
    )
    if height < len(result):  # moved up to its top
        result = result[:height]
    top, left = (height - len(result)) // 2, (width - result.shape[1]) // 2
    near = drawn[top : top + len(result), left : left + result.shape[1]]
    np.testing.assert_array_equal(near, result)
    divider.press("End")
    assert divider.get_attribute("aria-valuetext").startswith("100 %")


def test_cancel_and_go_on(visit, static):
    page = visit(static.url)
    page.select_option("#net", "bitsr-l")
    drop(page, {"large.png": png(rng.integers(0, 256, (900, 1200, 3), np.uint8))})
    page.locator('#items li[data-state="running"]').wait_for(state="attached")
    page.click("#cancel")
    assert page.inner_text("#detail") == "Cancelled" and page.is_visible("#again")
    page.select_option("#net", "bitsr-s")
    drop(page, {"small.png": png(scene(20, 30))})
    done(page)
    assert page.locator('#items li[data-state="cancelled"]').count() == 1


def test_what_cannot_be_read_is_one_line(visit, static):
    page = visit(static.url)
    whole = png(scene(60, 60, 4))
    opaque = png(scene(60, 60))
    broken = bytearray(opaque)
    broken[len(broken) // 2] ^= 255
    files = {
        "empty.png": b"",
        "text.png": b"no image",
        "cut.png": whole[: len(whole) // 2],
        "broken.png": bytes(broken),
        "sound.png": png(scene(12, 12)),
    }
    drop(page, files)
    done(page)
    texts = page.locator('#items li[data-state="failed"] small').all_inner_texts()
    assert len(texts) == 4 and all(text and "\n" not in text for text in texts)
    assert "empty" in texts[0] and "Damaged" in texts[2]


def test_paste_and_repeat(visit, static):
    page = visit(static.url)
    drop(page, {"a.png": png(scene(16, 16))}, "paste")
    done(page)
    assert page.is_hidden("#again")
    scale(page, 3)
    page.click("#again")
    page.locator("#detail", has_text="48, bitsr-m-x3").wait_for()


def test_first_visit_is_small_and_then_no_connection_is_needed(visit, static):
    before = static.sent()
    page = visit(static.url)
    page.evaluate("navigator.serviceWorker.ready.then(() => 0)")
    page.evaluate(
        """() => new Promise((done) => {
            const workers = navigator.serviceWorker;
            if (workers.controller) done();
            else workers.addEventListener("controllerchange", () => done(), { once: true });
        })"""
    )
    page.reload()
    assert static.sent() - before < 1e6
    page.context.set_offline(True)
    page.reload()
    drop(page, {"a.png": png(scene(24, 24))})
    done(page)
    assert rgba(saved(page)).shape == (96, 96, 4)
    page.select_option("#net", "bitsr-l")
    drop(page, {"b.png": png(scene(24, 24))})
    failed = page.locator('#items li[data-state="failed"] small')
    assert "has to be loaded once" in failed.inner_text()


def test_no_request_may_leave_the_page(visit, static):
    page = visit(static.url)
    directive = page.evaluate(
        """() => new Promise((done) => {
            addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
            fetch("https://elsewhere.example/").catch(() => undefined);
        })"""
    )
    assert directive == "connect-src"


def test_phone(visit, static):
    phone = {"width": 360, "height": 740}
    page = visit(static.url, viewport=phone, device_scale_factor=3, is_mobile=True, has_touch=True)
    for state in ("empty", "full"):
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, state
        if state == "empty":
            drop(
                page,
                {"a long name of an image from a phone.png": png(scene(30, 20)), "b.png": png(scene(20, 30))},
            )
            done(page, 2)
    for button in page.locator("button:visible").all():
        box = button.bounding_box()
        assert box["width"] >= 24 and box["height"] >= 24


def test_keyboard_alone(visit, static):
    page = visit(static.url)

    def tab_to(id: str) -> None:
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id || document.activeElement.parentElement.id") == id:
                return
        raise AssertionError(f"{id} is not reached")

    tab_to("net")
    page.keyboard.press("ArrowDown")
    tab_to("empty")
    choosers: list = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    for _ in range(20):  # Chromium drops one now and then
        page.keyboard.press("Enter")
        page.wait_for_timeout(1000)
        if choosers:
            break
    choosers[0].set_files({"name": "a.png", "mimeType": "image/png", "buffer": png(scene(20, 24))})
    done(page)
    assert "bitsr-s-x4" in page.inner_text("#detail")
    tab_to("divider")
    page.keyboard.press("ArrowLeft")
    assert page.get_attribute("#divider", "aria-valuenow") == "48"
    tab_to("save")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "a_x4.png"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(visit, static, repository, scheme):
    axe = repository / "web" / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.is_file():
        pytest.skip("axe-core is not installed (npm ci --prefix web)")
    page = visit(static.url, color_scheme=scheme)
    for step in range(2):
        page.evaluate(axe.read_text(encoding="utf-8"))
        found = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
        assert not found, [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in found]
        if step == 0:
            drop(page, {"a.png": png(scene(20, 24)), "broken.png": b"no image"})
            done(page)
            page.locator('#items li[data-state="failed"]').wait_for()
