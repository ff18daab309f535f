-- What members did, of the kinds asked for, from $since to $until (instants in microseconds, half open).
-- A kind that the product itself knows comes from its own table, also where the shop sends events of that name.
SELECT member_id, kind, epoch_us(occurred_at) AS t
FROM events
WHERE list_contains($kinds, kind)
    AND kind NOT IN ('order', 'message_sent', 'message_opened', 'message_clicked', 'coupon_redeemed')
    AND occurred_at >= make_timestamptz($since) AND occurred_at < make_timestamptz($until)
UNION ALL
SELECT member_id, 'order', epoch_us(ordered_at)
FROM orders
WHERE list_contains($kinds, 'order') AND (status = 'paid' OR net_minor > 0)
    AND ordered_at >= make_timestamptz($since) AND ordered_at < make_timestamptz($until)
UNION ALL
SELECT member_id, 'message_sent', epoch_us(sent_at)
FROM touches
WHERE list_contains($kinds, 'message_sent')
    AND sent_at >= make_timestamptz($since) AND sent_at < make_timestamptz($until)
UNION ALL
SELECT member_id, 'message_opened', epoch_us(opened_at)
FROM touches
WHERE list_contains($kinds, 'message_opened')
    AND opened_at >= make_timestamptz($since) AND opened_at < make_timestamptz($until)
UNION ALL
SELECT member_id, 'message_clicked', epoch_us(clicked_at)
FROM touches
WHERE list_contains($kinds, 'message_clicked')
    AND clicked_at >= make_timestamptz($since) AND clicked_at < make_timestamptz($until)
UNION ALL
SELECT member_id, 'coupon_redeemed', epoch_us(redeemed_at)
FROM redemptions
WHERE list_contains($kinds, 'coupon_redeemed') AND member_id IS NOT NULL
    AND (rolled_back_at IS NULL OR rolled_back_at >= make_timestamptz($as_of))
    AND redeemed_at >= make_timestamptz($since) AND redeemed_at < make_timestamptz($until)
