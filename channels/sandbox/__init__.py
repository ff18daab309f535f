"""Stand-ins for the mail server, Aliyun and WeChat on loopback: the default until real ones are set.

They verify signatures with code of their own, answer in the providers' shapes, call back with
receipts, and keep every message in ``home/sandbox.db`` for the console's sandbox inbox.

Magic addresses (the word before the first character that is no letter, so ``bounce+7@…`` works):

=========================== =====================================================================
e-mail ``bounce@…``         refused at RCPT: 550 5.1.1 (hard bounce)
e-mail ``defer@…``          refused at RCPT: 451 4.3.0 (try again)
e-mail ``policy@…``         refused after DATA: 554 5.7.1
e-mail ``drop@…``           the connection is cut after DATA without a reply (unknown), once stored
number ending in ``0000``   accepted, the receipt says that it failed
number ending in ``0001``   isv.MOBILE_NUMBER_ILLEGAL
number ending in ``0002``   isv.BUSINESS_LIMIT_CONTROL
number ending in ``0003``   isv.AMOUNT_NOT_ENOUGH (pauses the account)
openid ``blocked…``         accepted, the receipt says ``failed:user block``
openid ``stranger…``        43004, not a follower
openid ``busy…``            -1 (system busy), every time
template id ``invalid…``    40037 (WeChat) or isv.SMS_TEMPLATE_ILLEGAL (Aliyun)
=========================== =====================================================================
"""
