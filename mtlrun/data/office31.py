"""Office-31: office objects on Amazon, by a webcam, and by a camera."""

from mtlrun.data.domains import DomainImages, DomainPreparation


class Office31Preparation(DomainPreparation):
    """See :class:`DomainPreparation`."""

    dataset = "office31"
    title = "Office-31"
    domains = ("amazon", "dslr", "webcam")
    published = (31, 4110)
    where_from = (
        "It comes from https://faculty.cc.gatech.edu/~judy/domainadapt/. Put the folders amazon, "
        "dslr and webcam there, as the archive has them (amazon/images/CLASS/*.jpg) or without "
        "the folders images (amazon/CLASS/*.jpg); or name the folder that has them by "
        "dataset.root=FOLDER, or its parent by the environment variable MTLRUN_DATA (which then "
        "needs a folder office31). The first run converts the images."
    )


class Office31(DomainImages):
    """Office-31: 4110 images of 31 kinds of office objects in three domains.

    Saenko, Kulis, Fritz, Darrell: Adapting Visual Category Models to New Domains, ECCV 2010. Each
    domain is a stream and a task: ``amazon`` (2817 images from the shop), ``dslr`` (498 by a
    camera) and ``webcam`` (795). Split at random into 60 % to train on, 20 % for validation and
    20 % to test on, as LibMTL does; LibMTL's lists of files are another draw of it, and its code
    does not augment. See :class:`~mtlrun.data.domains.DomainImages` for the settings.
    """

    preparation = Office31Preparation()
