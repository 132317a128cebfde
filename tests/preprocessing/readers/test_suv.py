from __future__ import annotations

import numpy as np
import pydicom
import pytest

from preprocessing.readers.volumes import read_volume
from tests.preprocessing.readers.dicom_files import ACTIVITY, pet, reason


def factor(path):
    return pytest.approx(ACTIVITY * path, rel=1e-5)


def test_pet_in_becquerel_becomes_suv(tmp_path):
    """By hand: after two half-lives 100 of 400 MBq are left; SUV = Bq/ml x 70000 g / 100e6 Bq = Bq/ml x 7e-4."""
    assert read_volume(pet(tmp_path / "pt")).values == factor(7e-4)


def test_pet_corrected_to_the_injection_takes_the_whole_dose(tmp_path):
    folder = pet(tmp_path / "pt", DecayCorrection="ADMIN", injected={"RadionuclideHalfLife": None})
    assert read_volume(folder).values == factor(70000 / 400e6)


def test_pet_in_suv_stays_as_it_is(tmp_path):
    assert read_volume(pet(tmp_path / "a", Units="GML", PatientWeight=None)).values == factor(1)
    assert read_volume(pet(tmp_path / "b", Units="GML", SUVType="BW")).values == factor(1)
    assert "normalised by LBM" in reason(pet(tmp_path / "c", Units="GML", SUVType="LBM"))


def test_the_slope_of_each_slice_comes_before_the_suv(tmp_path):
    slopes = np.array([1, 2, 0.5, 3, 0.25, 4])
    folder = pet(tmp_path / "pt", each=[{"RescaleSlope": f"{slope:g}"} for slope in slopes])
    assert read_volume(folder).values == factor(7e-4 * slopes)


@pytest.mark.parametrize(
    ("injected", "tags", "half_lives"),
    [
        # over midnight: injected at 23:00, scanned at 01:00
        ({"RadiopharmaceuticalStartTime": "230000.00"}, {"SeriesTime": "010000", "AcquisitionTime": "010000"}, 2),
        # the exact date and time come first
        ({"RadiopharmaceuticalStartDateTime": "20200301070000.000000+0100"}, {}, 3),
        # whose date was shifted when the patient was de-identified
        ({"RadiopharmaceuticalStartDateTime": "20171224080000"}, {}, 2),
        ({"RadiopharmaceuticalStartDateTime": "20171224090000", "RadiopharmaceuticalStartTime": None}, {}, 1),
        # all dates removed
        ({}, {"SeriesDate": None, "AcquisitionDate": None}, 2),
        # no time of acquisition
        ({}, {"AcquisitionDate": None, "AcquisitionTime": None}, 2),
        # a series made in the afternoon of images acquired at 11:00
        ({}, {"SeriesTime": "150000", "AcquisitionTime": "110000"}, 3),
        ({}, {"SeriesTime": None, "AcquisitionTime": "110000"}, 3),
        # days later, a long half-life: 96 h + 2 h with 49 h
        (
            {"RadiopharmaceuticalStartDateTime": "20200226080000", "RadionuclideHalfLife": 49 * 3600.0},
            {},
            2,
        ),
    ],
)
def test_times_of_injection_and_scan(tmp_path, injected, tags, half_lives):
    expected = 70000 / (400e6 / 2**half_lives)
    assert read_volume(pet(tmp_path / "pt", injected, **tags)).values == factor(expected)


def test_the_slice_acquired_first_counts(tmp_path):
    times = ("113000", "111500", "110000", "111500", "113000", "114500")
    folder = pet(tmp_path / "pt", each=[{"AcquisitionTime": time} for time in times], SeriesTime="150000")
    assert read_volume(folder).values == factor(70000 / (400e6 / 2**3))


def test_the_scan_start_from_the_frame_reference_time(tmp_path):
    """Acquired at 10:30, 30 min after the scan's start; the frame of one half-life has its average count rate at
    log2(2 ln 2) half-lives = 0.4712336 h, independent of the code's form: the mean of 2^-t over [0, 1] is 1 / (2 ln 2).
    """
    milliseconds = 1000 * 3600 * (0.5 + np.log2(2 * np.log(2)))
    folder = pet(
        tmp_path / "pt",
        SeriesTime="150000",
        AcquisitionTime="103000",
        FrameReferenceTime=f"{milliseconds:.4f}",
        ActualFrameDuration=3600000,
    )
    assert read_volume(folder).values == factor(7e-4)


def private(folder, group, creator, **elements):
    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        block = image.private_block(group, creator, create=True)
        for element, (vr, value) in elements.items():
            block.add_new(int(element[1:], 16), vr, value)
        image.save_as(file)


def test_the_scan_start_as_ge_notes_it(tmp_path):
    folder = pet(tmp_path / "pt", SeriesTime="150000", AcquisitionTime="113000")
    private(tmp_path / "pt", 0x0009, "GEMS_PETD_01", x0D=("DT", "20200301100000.00"))
    assert read_volume(folder).values == factor(7e-4)


def test_counts_of_philips(tmp_path):
    folder = pet(tmp_path / "suv", Units="CNTS")
    assert "the units are CNTS" in reason(folder)
    private(tmp_path / "suv", 0x7053, "Philips PET Private Group", x00=("DS", "0.25"), x09=("DS", "3"))
    assert read_volume(folder).values == factor(0.25)
    folder = pet(tmp_path / "bqml", Units="CNTS")
    private(tmp_path / "bqml", 0x7053, "Philips PET Private Group", x00=("DS", "0"), x09=("DS", "3"))
    assert read_volume(folder).values == factor(3 * 7e-4)


WITHOUT = "PET: Bq/ml cannot be turned into SUV without "


@pytest.mark.parametrize(
    ("injected", "tags", "said"),
    [
        ({}, {"PatientWeight": None}, f"{WITHOUT}PatientWeight (0010,1030)"),
        ({}, {"PatientWeight": 0.0}, f"{WITHOUT}PatientWeight (0010,1030)"),
        (
            {},
            {"PatientWeight": None, "DecayCorrection": None},
            "PatientWeight (0010,1030) and DecayCorrection (0054,1102)",
        ),
        ({}, {"RadiopharmaceuticalInformationSequence": None}, f"{WITHOUT}RadionuclideTotalDose (0018,1074)"),
        ({"RadionuclideTotalDose": None}, {}, f"{WITHOUT}RadionuclideTotalDose (0018,1074)"),
        ({"RadionuclideHalfLife": None}, {}, f"{WITHOUT}RadionuclideHalfLife (0018,1075)"),
        ({"RadiopharmaceuticalStartTime": None}, {}, f"{WITHOUT}RadiopharmaceuticalStartTime (0018,1072)"),
        ({}, {"SeriesTime": None, "AcquisitionTime": None}, f"{WITHOUT}SeriesTime (0008,0031)"),
        ({}, {"Units": None}, "the units are not given; only BQML and GML can be turned into SUV"),
        ({}, {"Units": "PROPCNTS"}, "the units are PROPCNTS"),
        ({}, {"DecayCorrection": "NONE"}, "DecayCorrection is NONE"),
        ({"RadionuclideTotalDose": 400.0}, {}, "RadionuclideTotalDose is 400 where Bq are meant (is it in MBq?)"),
        ({"RadiopharmaceuticalStartTime": "103000"}, {}, "23.5 h before the scan, over 10 half-lives of 60 min"),
        (
            {"RadionuclideHalfLife": 49 * 3600.0},
            {},
            "with a half-life of 49.0 h, SUV needs RadiopharmaceuticalStartDateTime",
        ),
        ({"RadiopharmaceuticalStartTime": "ab:cd"}, {}, "a tag that SUV needs (weight, dose, half-life"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR TM")
def test_pet_that_cannot_become_suv(tmp_path, injected, tags, said):
    assert said in reason(pet(tmp_path / "pt", injected, **tags))
