"""Office-Home: everyday objects in paintings, clip art, shops and photographs."""

from mtlrun.data.domains import DomainImages, DomainPreparation


class OfficeHomePreparation(DomainPreparation):
    """See :class:`DomainPreparation`."""

    dataset = "office_home"
    title = "Office-Home"
    domains = ("art", "clipart", "product", "real_world")
    published = (65, 15588)
    where_from = (
        "It comes from https://www.hemanthdv.org/officeHomeDataset.html. Put the folders Art, "
        "Clipart, Product and Real World (or RealWorld, Real_World) of its archive there, with "
        "CLASS/*.jpg in each; or name the folder that has them by dataset.root=FOLDER, or its "
        "parent by the environment variable MTLRUN_DATA (which then needs a folder office_home). "
        "The first run converts the images."
    )


class OfficeHome(DomainImages):
    """Office-Home: 15,588 images of 65 kinds of everyday objects in four domains.

    Venkateswara, Eusebio, Chakraborty, Panchanathan: Deep Hashing Network for Unsupervised Domain
    Adaptation, CVPR 2017. Each domain is a stream and a task: ``art`` (2427 images), ``clipart``
    (4365), ``product`` (4439) and ``real_world`` (4357). Split at random into 60 % to train on,
    20 % for validation and 20 % to test on, as LibMTL does; LibMTL's lists of files are another
    draw of it, and its code does not augment. See :class:`~mtlrun.data.domains.DomainImages` for
    the settings.
    """

    preparation = OfficeHomePreparation()
