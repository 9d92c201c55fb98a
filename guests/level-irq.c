// SPDX-License-Identifier: MIT
/*
 * A driver that takes a level interrupt from a GPIO line, as a device on a board would: for tests of
 * interrupt controllers. Whoever opens /dev/level-irq writes
 *   CHIP OFFSET high|low   to take the interrupt of a line that is active at that level
 *   ack                    to have the device served: the handler returns, which unmasks the interrupt
 *   mask, unmask           to disable and enable the interrupt
 * and reads how often the handler was called. Closing gives the line back.
 */
#include <linux/fs.h>
#include <linux/gpio/consumer.h>
#include <linux/gpio/machine.h>
#include <linux/interrupt.h>
#include <linux/miscdevice.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#define NAME "level-irq"

static struct gpio_desc *line;
static unsigned int irq, calls;
static bool acked, closing;
static DECLARE_WAIT_QUEUE_HEAD(changed);
static struct miscdevice device;

static irqreturn_t serve(int number, void *unused)
{
	calls++;
	wait_event(changed, acked || closing);
	acked = false;
	return IRQ_HANDLED;
}

static int take(const char *chip, unsigned int offset, unsigned long level)
{
	struct gpiod_lookup_table *table = kzalloc(struct_size(table, table, 2), GFP_KERNEL);
	int error;

	if (!table)
		return -ENOMEM;
	table->dev_id = NAME;
	table->table[0] = GPIO_LOOKUP(chip, offset, NULL, GPIO_ACTIVE_HIGH);
	gpiod_add_lookup_table(table);
	line = gpiod_get(device.this_device, NULL, GPIOD_IN);
	gpiod_remove_lookup_table(table);
	kfree(table);
	if (IS_ERR(line)) {
		error = PTR_ERR(line);
		line = NULL;
		return error;
	}
	calls = 0;
	acked = closing = false;
	irq = gpiod_to_irq(line);
	error = request_threaded_irq(irq, NULL, serve, level | IRQF_ONESHOT, NAME, NULL);
	if (error) {
		gpiod_put(line);
		line = NULL;
	}
	return error;
}

static ssize_t level_irq_write(struct file *file, const char __user *from, size_t count, loff_t *at)
{
	char text[64] = "", chip[32], level[8];
	unsigned int offset;
	int error = 0;

	if (count >= sizeof(text) || copy_from_user(text, from, count))
		return -EINVAL;
	if (line && sysfs_streq(text, "ack")) {
		acked = true;
		wake_up(&changed);
	} else if (line && sysfs_streq(text, "mask")) {
		disable_irq(irq);
	} else if (line && sysfs_streq(text, "unmask")) {
		enable_irq(irq);
	} else if (!line && sscanf(text, "%31s %u %7s", chip, &offset, level) == 3) {
		error = take(chip, offset, strcmp(level, "low") ? IRQF_TRIGGER_HIGH : IRQF_TRIGGER_LOW);
	} else {
		error = -EINVAL;
	}
	return error ? error : count;
}

static ssize_t level_irq_read(struct file *file, char __user *to, size_t count, loff_t *at)
{
	char text[16];
	loff_t start = 0;

	return simple_read_from_buffer(to, count, &start, text, scnprintf(text, sizeof(text), "%u\n", calls));
}

static int level_irq_release(struct inode *inode, struct file *file)
{
	if (line) {
		closing = true;
		wake_up(&changed);
		free_irq(irq, NULL);
		gpiod_put(line);
		line = NULL;
	}
	return 0;
}

static const struct file_operations operations = {
	.open = nonseekable_open,
	.read = level_irq_read,
	.write = level_irq_write,
	.release = level_irq_release,
};

static struct miscdevice device = {.minor = MISC_DYNAMIC_MINOR, .name = NAME, .fops = &operations};
builtin_misc_device(device);
